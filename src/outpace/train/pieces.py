"""A loss through an output matrix, piece by piece: nobody holds the logits of a whole batch.

They would be nearly all of a training's memory. Each piece is learnt from at once; what stays are the
gradients of the states and of the matrix. So does the fused loss of Hsu et al. 2024, "Liger Kernel",
arXiv:2410.10989.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from outpace.train.precision import Precision, products_in
from outpace.train.segments import HalfAndHalf

ROWS = 256  # of logits


class PieceByPiece(torch.autograd.Function):
    """Sum over drafts' steps s and places i of w[s, i] (CE(p, law) + CE(p, token)) / 2.

    p is softmax(matrix x[s, i]), the law softmax(output final[i]): one for all steps. No step has a place
    that the first one lacks. Laws and loss are in float32, products with `matrix` in `precision`.
    """

    @staticmethod
    def forward(
        context: Any,
        matrix: Tensor,
        output: Tensor,
        final: Tensor,
        labels: Tensor,
        weights: Tensor,
        precision: Precision,
        *steps: Tensor,
    ) -> Tensor:
        """f32[]; matrix and output [M, D], final [n, D], labels i64[n], weights f32[S, n], S steps [n, D]."""
        leaf = matrix.detach().requires_grad_()
        leaf.grad = torch.zeros_like(leaf)
        gradients, total = [torch.zeros_like(step) for step in steps], matrix.new_zeros(())
        for places in torch.split(weights[0].nonzero()[:, 0], ROWS):
            laws = linear(final[places], output).float().softmax(-1)
            for each, step, gradient in zip(weights, steps, gradients, strict=True):
                known = each[places] > 0
                some = places[known]
                with torch.enable_grad():
                    read = step[some].detach().requires_grad_()
                    with products_in(precision, torch.device("cpu")):
                        logits = linear(read, leaf)[:, None]
                    given = laws[known][:, None], labels[some][:, None], each[some][:, None]
                    part = HalfAndHalf.apply(logits, *given)  # type: ignore[no-untyped-call]
                    part.backward()
                assert read.grad is not None
                gradient[some] = read.grad
                total += part.detach()
        context.save_for_backward(leaf.grad, *gradients)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Those of the matrix and of the states."""
        of_matrix, *of_steps = (saved * gradients[0] for saved in context.saved_tensors)
        return of_matrix, None, None, None, None, None, *of_steps
