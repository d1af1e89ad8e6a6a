"""Extra matrices of a torch model: heads, rows of the output.

For drafts, a small matrix on the CPU is rounded to 8 bit and multiplied by our own block kernels, on one
thread. There eight rows take twice as long as one, with torch three to four times as long, and heads always
have several rows. For a larger matrix all threads pay, and torch has them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.products import Product
from outpace.files.packing import GROUP
from outpace.targets.native_products import PackedMatrix, floats_kind, packed_matrix

MOST_WEIGHTS = 1 << 22  # of a small matrix
Finish = Callable[[Tensor], Tensor]


class TorchProduct:
    """A matrix [M, D] where it lies, in its type; see `core/products.py`. finish: of its outputs, to f32."""

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

    def rounded(self) -> Product:
        """By the block kernels, where the matrix is small and on the CPU."""
        if self._weight.device.type != "cpu" or self._weight.numel() > MOST_WEIGHTS:
            return self
        return RoundedProduct(self._weight, self._bias, self._finish)


class RoundedProduct:
    """A copy of a matrix [M, D] for the block kernels; a row's bits do not depend on the others.

    8 bit, with a scale for every 32 columns; what such groups do not divide stays as it is.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, finish: Finish) -> None:
        floats = weight.float().numpy()
        matrix = packed_matrix(floats, floats_kind(floats) if floats.shape[1] % GROUP else "q8s")
        self.num_outputs = len(floats)
        self._multiply = block_multiply(matrix, bias)
        self._finish = finish

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, M]."""
        result: NDArray[np.float32] = self._finish(self._multiply(x)).numpy()
        return result

    def rounded(self) -> Product:
        """It is."""
        return self


def block_multiply(matrix: PackedMatrix, bias: Tensor | None) -> Callable[[NDArray[np.float32]], Tensor]:
    """f32[n, D] -> f32[n, M] by the block kernels, on one thread. A copy of the bias is added."""
    from outpace import _native

    assert bias is None or tuple(bias.shape) == matrix[1:2], "one bias per output"
    added = None if bias is None else bias.detach().float().clone()

    def multiply(x: NDArray[np.float32]) -> Tensor:
        product = torch.from_numpy(_native.multiply(*matrix, np.ascontiguousarray(x, np.float32)))
        return product if added is None else product.add_(added)

    return multiply
