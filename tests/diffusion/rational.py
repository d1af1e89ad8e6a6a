"""A model of products, sums and quotients: its outputs have the same bits in a call of any size.

So nothing but the sampler could make samples differ. Exponentials would not do: vector units round otherwise.
"""

from __future__ import annotations

from typing import Any

import torch

from outpace import diffusion

NUM, STEPS, SHAPE = 11, 13, (3, 2)
LEVELS = diffusion.variance_preserving(STEPS, last=0.05)
PROCESS = diffusion.chain(LEVELS, prediction="sample")


class Rational:
    """Keeps (samples, times) of every call, the samples' numbers being its conditions."""

    def __init__(self, bend: float = 30.0) -> None:
        self.bend = bend
        self.calls: list[tuple[list[int], list[float]]] = []

    def __call__(
        self, inputs: torch.Tensor, times: torch.Tensor, numbers: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.calls.append(([] if numbers is None else numbers.tolist(), times.tolist()))
        times = times.reshape(-1, *[1] * (inputs.ndim - 1))
        bent = inputs * self.bend / (1 + self.bend * inputs * inputs)
        return bent + (1 - times) * inputs.flip(1) / (2 + inputs * inputs)


def run(draft: Any, window: Any, *, model: Any = None, num: int = NUM, **options: Any) -> diffusion.Samples:
    """Samples whose conditions are their own numbers."""
    model = Rational() if model is None else model
    given: dict[str, Any] = {"seed": 3, "conditions": torch.arange(num)} | options
    return diffusion.sample(model, PROCESS, SHAPE, num, draft=draft, window=window, **given)
