"""Freed memory is kept for the next step of a training, in place of being given back to the system.

glibc returns every large block at once, and the next step's block of that size comes back as pages to be
cleared, one fault each: a third of the time of a small model's step on the machine where this was measured
(docs/log/experiments.md). Another C library is left as it is.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library for it, for this whole process; whether it could."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
