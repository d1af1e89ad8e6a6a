"""Serving on several machines: what is between an engine that scales out and the server of one machine."""
