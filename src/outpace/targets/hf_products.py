"""Matrices beside a torch model: heads, rows of the output.

A small one on the CPU is multiplied by our own block kernels, on one thread. There a product of eight rows
takes less than twice as long as one of a single row, with torch's three to four times as long, and heads are
always several rows. What is larger deserves all threads, which are torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.contracts import Product
from outpace.targets.native_products import floats_kind, packed_matrix

MOST_WEIGHTS = 1 << 22  # of a small matrix
Finish = Callable[[Tensor], Tensor]


class TorchProduct:
    """A matrix [M, D] where it lies, in its type; see `contracts.Product`."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, finish: Finish = Tensor.float) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._finish = finish

    @property
    def num_outputs(self) -> int:
        """M."""
        return self._weight.shape[0]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, M]."""
        states = torch.from_numpy(np.ascontiguousarray(x)).to(self._weight.device, self._weight.dtype)
        with torch.no_grad():
            product = self._finish(torch.nn.functional.linear(states, self._weight, self._bias))
        result: NDArray[np.float32] = product.cpu().numpy()
        return result


class BlockProduct:
    """A copy of a matrix [M, D] for the block kernels, nothing lost; a row's bits do not depend on others."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, finish: Finish = Tensor.float) -> None:
        floats = weight.detach().float().numpy()
        self._matrix = packed_matrix(floats, floats_kind(floats))
        self._bias = None if bias is None else bias.detach().float().numpy()
        self._finish = finish

    @property
    def num_outputs(self) -> int:
        """M."""
        return self._matrix[1]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, M]."""
        from outpace import _native

        product = _native.multiply(*self._matrix, np.ascontiguousarray(x, np.float32))
        if self._bias is not None:
            product += self._bias
        result: NDArray[np.float32] = self._finish(torch.from_numpy(product)).numpy()
        return result


def product_beside(weight: Tensor, bias: Tensor | None = None, finish: Finish = Tensor.float) -> Product:
    """The product with a matrix [M, D] that lies where the model is. finish: of its outputs, to f32."""
    small = weight.device.type == "cpu" and weight.numel() <= MOST_WEIGHTS
    return (BlockProduct if small else TorchProduct)(weight, bias, finish)
