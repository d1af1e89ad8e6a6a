"""The weights of a running model: in the mapped file, or copied into huge pages.

Mapped bytes are the system's own copy of the file: processes share it, and the system drops it when memory is
short. Its pages have 4 kB, and on some processors a call that reads all weights spends part of its time on
finding them. A private copy can lie in pages of 2 MB. `targets/fetching.py` measures whether that pays;
OUTPACE_MEMORY=mapped or OUTPACE_MEMORY=huge decides it by hand.
"""

from __future__ import annotations

import mmap
import os
import threading
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.core.machine import available_bytes, grants_huge_pages

HUGE_PAGE = 2 * 2**20
CHOICES = ("huge", "mapped")
NUM_COPIERS = 4


def wanted_memory() -> str | None:
    """The value of OUTPACE_MEMORY; None if it is not set. An OutpaceError for an unknown value."""
    wanted = os.environ.get("OUTPACE_MEMORY") or None
    if wanted not in (None, *CHOICES):
        raise OutpaceError(f"OUTPACE_MEMORY is {wanted!r}, accepted are {', '.join(CHOICES)}")
    return wanted


def has_room_for_copy(num_bytes: int) -> bool:
    """Whether the system grants huge pages and has memory for twice as much."""
    return grants_huge_pages() and 2 * num_bytes < available_bytes()


def copied(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """u8[size]: a read-only copy, in huge pages where the system grants them, aligned to one."""
    # Private: memory that processes could share has rules of its own about huge pages.
    memory = mmap.mmap(-1, len(data) + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = -whole.ctypes.data % HUGE_PAGE
    copy = whole[start : start + len(data)]
    ends = [len(data) * i // NUM_COPIERS // HUGE_PAGE * HUGE_PAGE for i in range(NUM_COPIERS)] + [len(data)]
    threads = []
    for begin, end in pairwise(ends):  # side by side, for huge pages take time to be made
        thread = threading.Thread(target=np.copyto, args=(copy[begin:end], data[begin:end]))
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError:  # the system grants no more threads
            np.copyto(copy[begin:end], data[begin:end])
    for thread in threads:
        thread.join()
    copy.setflags(write=False)
    return copy


def forget_mapped(data: NDArray[np.uint8]) -> None:
    """Gives back the memory of a mapped file's pages; they are read anew when somebody needs them."""
    mapped = getattr(data, "_mmap", None)
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
