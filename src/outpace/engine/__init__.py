"""Requests: what was asked for, incremental text, and the loop that serves one request."""
