"""Measuring: prompts in, one JSON record per generation out, tables from records alone."""
