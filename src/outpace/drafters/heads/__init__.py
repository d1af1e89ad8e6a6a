"""Drafters that read trained heads."""
