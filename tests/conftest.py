"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# The same examples in every run: a failure on one machine is a failure on all of them.
settings.register_profile("outpace", deadline=None, derandomize=True, database=None)
settings.load_profile("outpace")
