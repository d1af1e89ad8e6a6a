"""Arrays that are computed once per model and kept beside its packed file: call costs, bigram tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.formats.npz import read_npz
from outpace.formats.whole import writing

Arrays = Mapping[str, NDArray[np.generic]]


class Memo:
    """`memo(name, make)` gives the arrays of `make()`, from disk where an earlier call has left them.

    A file that is damaged is made anew; one that cannot be written is done without.
    """

    def __init__(self, packed: Path) -> None:
        self._stem = packed.with_suffix("")

    def path(self, name: str) -> Path:
        """Of a file of this name that belongs to the model."""
        return self._stem.with_name(f"{self._stem.name}.{name}")

    def __call__(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        path = self.path(f"{name}.npz")
        try:
            return read_npz(path)
        except (OSError, ValueError):
            arrays = make()
        with suppress(OSError), writing(path) as file:
            np.savez(file, allow_pickle=False, **dict(arrays))
        return arrays
