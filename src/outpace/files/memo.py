"""Arrays that are computed once per model and stored next to its packed file: call costs, bigram tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.notes import note
from outpace.files.npz import read_npz
from outpace.files.whole import writing

Arrays = Mapping[str, NDArray[np.generic]]


class Memo:
    """`memo(name, make, fits)` gives the arrays of `make()`, from disk where an earlier call has left them.

    A file that is damaged, or whose arrays do not fit, is made anew, and a line says so; one that cannot be
    written is done without.
    """

    def __init__(self, packed: Path) -> None:
        self._stem = packed.with_suffix("")

    def path(self, name: str) -> Path:
        """The path of a file of this name that belongs to the model."""
        return self._stem.with_name(f"{self._stem.name}.{name}")

    def __call__(
        self, name: str, make: Callable[[], Arrays], fits: Callable[[Arrays], bool] = lambda arrays: True
    ) -> Arrays:
        path = self.path(f"{name}.npz")
        try:
            kept = read_npz(path)
            if fits(kept):
                return kept
            note(f"making {path} anew: its arrays are not what belongs there")
        except OSError:
            pass
        except ValueError as error:
            note(f"making {path} anew: {error}")
        arrays = make()
        with suppress(OSError), writing(path) as file:
            np.savez(file, allow_pickle=False, **dict(arrays))
        return arrays
