"""The one clock for what is not the loop's own, and how things are timed with it before anybody waits."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from time import perf_counter as now

__all__ = ["in_turns", "now"]


def in_turns(
    runs: Sequence[Callable[[], object]],
    *,
    rounds: int,
    warm: int = 0,
    calls: int = 1,
    on_round: Callable[[], None] = lambda: None,
) -> list[float]:
    """Seconds of a call of each, medians of `rounds` times `calls`.

    All take turns in every round, so that a machine that slows down slows all of them. In a turn the first
    `warm` calls do not count: they find the caches full of another's data.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, times in zip(runs, seconds, strict=True):
            for number in range(warm + calls):
                began = now()
                run()
                if number >= warm:
                    times.append(now() - began)
        on_round()
    return [statistics.median(times) for times in seconds]
