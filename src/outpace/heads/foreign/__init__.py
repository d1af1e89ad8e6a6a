"""Trained heads in the layouts of other projects: recognised, checked, taken in, and given out."""
