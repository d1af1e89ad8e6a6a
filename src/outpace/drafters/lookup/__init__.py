"""Drafters without a model or training: they look up earlier text, or guess."""
