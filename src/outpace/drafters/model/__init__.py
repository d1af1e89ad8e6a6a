"""Drafters that run a model: a smaller one, or some of the target's own layers."""
