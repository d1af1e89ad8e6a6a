"""How fast memory can be read, and how much of that one call of a model uses.

At one token per call a model does little more than read its weights once. Bytes of weights over the time of
the call, divided by what a plain read of memory reaches on the same threads, say how much is left to win.
"""

from __future__ import annotations

import resource
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

from outpace.core.options import whole

if TYPE_CHECKING:
    from outpace.api import Model

# Far beyond any cache that a processor of today has, yet small enough for a machine with little memory.
READ_BYTES = 512 * 2**20
MOST_BYTES = 2**40


def read_bandwidth(threads: int, *, num_bytes: int = READ_BYTES, repeats: int = 5) -> float:
    """Bytes per second that `threads` threads reach in reading memory; the median of `repeats`."""
    import outpace._native as native

    threads = whole("threads", threads, 1, 1024)
    num_bytes, repeats = whole("num_bytes", num_bytes, 1, MOST_BYTES), whole("repeats", repeats, 1, 1000)
    return statistics.median(native.read_bandwidth(threads, num_bytes) for _ in range(repeats))


def weight_bytes(model: Model) -> int:
    """Bytes of weights that a call reads: all, save an embedding table that is not the output matrix too."""
    tensors = model.weights.tensors
    tied = "output" not in tensors
    return sum(tensor.nbytes for name, tensor in tensors.items() if tied or name != "embed")


def resident_bytes() -> int:
    """The memory that this process has resident now, mapped weights that were read included."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # no Linux: the most it has had so far, in kilobytes
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()
