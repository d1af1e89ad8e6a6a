"""Input embeddings of a target, for heads that read tokens as the model does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Embedded, Target
from outpace.core.errors import OutpaceError
from outpace.core.layers import Floats

MOST_TOKENS = 8192  # whose embeddings are at hand


class Embeddings:
    """Tokens -> f32[n, D], each read once: `rows` takes ids and is slow."""

    def __init__(self, rows: Callable[[NDArray[np.integer]], Floats]) -> None:
        self._rows = rows
        self._known: dict[int, Floats] = {}

    def __call__(self, tokens: Sequence[int]) -> Floats:
        """f32[n, D]."""
        if missing := [*{token for token in tokens if token not in self._known}]:
            if len(self._known) + len(missing) > MOST_TOKENS:
                self._known.clear()
                missing = [*set(tokens)]
            self._known.update(zip(missing, self._rows(np.array(missing)), strict=True))
        return np.stack([self._known[token] for token in tokens])


def embedded(target: Target, reader: str) -> Embedded:
    """The target, if it shows states and its input embedding; else an OutpaceError that names the reader."""
    if not isinstance(target, Embedded):
        raise OutpaceError(
            f"{reader} reads hidden states and input embeddings, the target {type(target).__name__} shows "
            "none; accepted are native and transformers targets"
        )
    return target
