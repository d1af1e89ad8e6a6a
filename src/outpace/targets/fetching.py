"""How the block kernels fetch weights: several ways are timed once per processor, and the best is kept.

Some processors stream weights from memory fastest without software prefetch, some with it, into the first or
the second level of their caches. With one token there are several orders of reading. On some processors it
pays to copy the weights into huge pages (`files/memory.py`). Results do not depend on any of this. The timed
calls are calls of the model itself, because its memory and its shapes decide.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from outpace.pricing import clock

SIZES = (1, 2, 4, 8)  # tokens of a call from which a setting holds, up to the next
ROUNDS = 6
ENOUGH_S = 0.4  # of timing for one choice: what is slower has fewer rounds, two at least
MARGIN = 0.98  # another way has to beat the usual one by so much
# Smaller models live in the caches, and are done before any choice would pay.
LEAST_BYTES = 32 * 2**20


class Fetch(NamedTuple):
    """Level of the cache that weights go to (0: none are asked for), bytes ahead, tiles side by side."""

    level: int
    num_bytes: int
    tiles: int


USUAL = Fetch(1, 8192, 1)
_WAYS = ((0, 0), (1, 2048), (1, 8192), (2, 8192), (2, 65536))
_TILES = (1, 2, 4)  # for one token; for several the kernels have a number of their own

Call = Callable[[int], None]  # runs the model on this many tokens
UseFetch = Callable[[int, Fetch], None]
UseHuge = Callable[[bool], None]
Arrays = dict[str, NDArray[np.int64]]
Option = TypeVar("Option", bound=Hashable)


def measured(call: Call, use: UseFetch, use_huge: UseHuge | None) -> Arrays:
    """The arrays that `are_fetches` accepts. use_huge: None where there is no room for a copy."""
    best = []
    for size in SIZES:
        ways = [USUAL, *(Fetch(*way, USUAL.tiles) for way in _WAYS if way != USUAL[:2])]
        found = _fastest(ways, lambda way: use(size, way), lambda: call(size))  # noqa: B023
        if size == 1:
            ways = [found, *(found._replace(tiles=tiles) for tiles in _TILES if tiles != found.tiles)]
            found = _fastest(ways, lambda way: use(1, way), lambda: call(1))
        use(size, found)
        best.append(found)

    def calls() -> None:  # large pages may help those of several tokens most
        for size in SIZES:
            call(size)

    huge = use_huge is not None and _fastest([False, True], use_huge, calls)
    return {"fetches": np.array(best, np.int64), "huge": np.array([huge], np.int64)}


def are_fetches(arrays: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether these are settings that the kernels take, one for each size."""
    fetches, huge = arrays.get("fetches"), arrays.get("huge")
    if fetches is None or huge is None or fetches.dtype != np.int64 or huge.dtype != np.int64:
        return False
    if fetches.shape != (len(SIZES), 3) or huge.tolist() not in ([0], [1]):
        return False
    return all((level, count) in _WAYS and tiles in _TILES for level, count, tiles in fetches.tolist())


def apply(arrays: Mapping[str, NDArray[np.generic]], use: UseFetch) -> None:
    """Sets what was measured."""
    for size, fetch in zip(SIZES, arrays["fetches"].tolist(), strict=True):
        use(size, Fetch(*fetch))


def _fastest(options: Sequence[Option], use: Callable[[Option], None], run: Callable[[], None]) -> Option:
    """By the smallest time of each: neighbours on the machine only add to it. The first is the usual one."""
    least = dict.fromkeys(options, float("inf"))
    start = clock.now()
    run()  # finds the caches full of something else
    for round in range(ROUNDS):
        for option in options:
            use(option)
            began = clock.now()
            run()
            least[option] = min(least[option], clock.now() - began)
        if round > 0 and clock.now() - start > ENOUGH_S:
            break
    fastest = min(options, key=least.__getitem__)
    return fastest if least[fastest] < MARGIN * least[options[0]] else options[0]
