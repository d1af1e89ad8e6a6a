"""The one clock for what is not the loop's own: whoever needs a time asks here."""

from time import perf_counter as now

__all__ = ["now"]
