"""Drafters that look up what came before or guess without a model of their own: nothing is trained."""
