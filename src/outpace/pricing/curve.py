"""Seconds by size, learnt from what is seen while tokens are written. What is measured before: `costs.py`."""

from __future__ import annotations

from math import exp, log
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

INSTANT = 1e-9  # of a clock too coarse
OUTLIER = 1.0  # of the logarithm of a time: an interrupted call says nothing about its price

Sizes = TypeVar("Sizes", float, NDArray[np.float64])


class Curve:
    """Seconds by size: averages of what has been seen, straight lines between."""

    def __init__(self, known: dict[int, float]) -> None:
        self._known = known
        self._counts: dict[int, int] = {}
        self._line: tuple[list[int], NDArray[np.float64]] | None = None  # of what is known now

    @property
    def learnt(self) -> bool:
        """Whether anything has been seen."""
        return bool(self._counts)

    def learn(self, size: int, seconds: float, rate: float) -> float:
        """This size took so long. Returns what that says of the machine's mood: a factor for all sizes."""
        seconds, self._line = max(seconds, INSTANT), None
        count = self._counts[size] = self._counts.get(size, 0) + 1
        if count == 1:
            self._known[size] = seconds
            return 1.0
        error = max(-OUTLIER, min(OUTLIER, log(seconds / self._known[size])))
        mood = exp(rate * error)
        self.scale(mood)
        self._known[size] *= exp(max(0.0, 1 / count - rate) * error)
        return mood

    def scale(self, mood: float) -> None:
        """Everything takes so many times as long."""
        self._known = {size: known * mood for size, known in self._known.items()}
        self._line = None

    def at(self, size: Sizes) -> Sizes:
        """Seconds of a size: below what has been seen as its first, beyond it along the last line."""
        if self._line is None:
            ordered = sorted(self._known)
            # A smaller size never costs more: what says otherwise was interrupted.
            self._line = (
                ordered,
                np.minimum.accumulate([self._known[size] for size in reversed(ordered)])[::-1],
            )
        sizes, seconds = self._line
        within: Sizes = np.interp(size, sizes, seconds)
        if len(sizes) == 1:
            return within
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
        return within + slope * np.maximum(0.0, size - sizes[-1])
