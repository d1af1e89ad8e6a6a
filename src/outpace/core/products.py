"""A matrix beside a target, for whatever is computed from its hidden states: heads, rows of the output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Adapter = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""f32[n, D] -> f32[n, D]: what the output matrix reads in place of hidden states at "final"."""


class Product(Protocol):
    """A matrix [M, D] that lies where the target computes, in a precision of the target's choosing."""

    @property
    def num_outputs(self) -> int:
        """M."""

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, M]."""

    def rounded(self) -> Product:
        """The same for drafts, which need not be exact: of fewer bits where that is cheaper.

        To be asked for before the first call.
        """
