"""The floor of a call: how fast weights can be read and multiplied at best on this machine.

A call of M tokens reads all weights once and does M times their multiply-adds, at least. The floor is the
longer of both (the roofline of Williams et al. 2009): bytes over what a plain read of as many bytes reaches
on the same threads, or multiply-adds over what the instruction set reaches on registers alone. The floor over
the time of a call says how much is left to win.
"""

from __future__ import annotations

import resource
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outpace.core.options import whole
from outpace.files.packing import FLOAT_BYTES

if TYPE_CHECKING:
    from outpace.files.packing import PackedTensor
    from outpace.models.text import Model

# Far beyond any cache that a processor of today has, yet small enough for a machine with little memory.
READ_BYTES = 512 * 2**20
MOST_BYTES = 2**40


@dataclass(frozen=True, slots=True)
class Floor:
    """What a machine can do at best, and what a call of a model has to do.

    read_per_s             bytes per second of a plain read, by size of page: "4 kB" and "huge".
    multiply_adds_per_s    of 8 bit and of float numbers.
    weight_bytes           that a call reads.
    multiply_adds          of one token, of 8 bit and of float numbers.
    """

    read_per_s: dict[str, float]
    multiply_adds_per_s: tuple[float, float]
    weight_bytes: int
    multiply_adds: tuple[int, int]

    @classmethod
    def measure(cls, model: Model) -> Floor:
        """On the model's threads, reading as many bytes as it has weights: caches may hold small ones."""
        import outpace._native as native

        threads, num_bytes = model.num_threads, weight_bytes(model)
        pages = {"4 kB": False, "huge": True}
        return cls(
            {name: read_bandwidth(threads, num_bytes=num_bytes, huge=huge) for name, huge in pages.items()},
            (native.multiply_add_rate(threads, True), native.multiply_add_rate(threads, False)),
            num_bytes,
            multiply_adds(model),
        )

    def seconds(self, num_tokens: int) -> float:
        """The shortest time of a call of so many tokens."""
        pairs = zip(self.multiply_adds, self.multiply_adds_per_s, strict=True)
        return max(
            self.weight_bytes / max(self.read_per_s.values()),
            num_tokens * sum(count / rate for count, rate in pairs),
        )


def read_bandwidth(
    threads: int, *, num_bytes: int = READ_BYTES, repeats: int = 3, huge: bool = False
) -> float:
    """Bytes per second that `threads` threads reach in reading memory; the median of `repeats`.

    huge: of memory in huge pages, where the system grants them.
    """
    import outpace._native as native

    threads = whole("threads", threads, 1, 1024)
    num_bytes, repeats = whole("num_bytes", num_bytes, 1, MOST_BYTES), whole("repeats", repeats, 1, 1000)
    return statistics.median(native.read_bandwidth(threads, num_bytes, huge) for _ in range(repeats))


def weight_bytes(model: Model) -> int:
    """Bytes of weights that a call reads: all, save an embedding table that is not the output matrix too."""
    return sum(tensor.nbytes for tensor in _read_tensors(model))


def multiply_adds(model: Model) -> tuple[int, int]:
    """Of a call of one token, by matrices of 8 bit and less and by those of floats. Attention is left out."""
    counts = [0, 0]
    for tensor in _read_tensors(model):
        if tensor.tile_bytes:  # a matrix
            counts[tensor.kind in FLOAT_BYTES] += tensor.rows * tensor.cols
    return counts[0], counts[1]


def _read_tensors(model: Model) -> list[PackedTensor]:
    tensors = model.weights.tensors
    tied = "output" not in tensors
    return [tensor for name, tensor in tensors.items() if tied or name != "embed"]


def resident_bytes() -> int:
    """The memory that this process has resident now, mapped weights that were read included."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):  # no Linux: the most it has had so far, in kilobytes
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()
