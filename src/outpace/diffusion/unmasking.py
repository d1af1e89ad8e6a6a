"""When each position of a masked sequence is unmasked: drawn before, and apart from, the tokens.

Absorbing diffusion: Austin et al. 2021 (D3PM), arXiv:2107.03006; Sahoo et al. 2024 (MDLM), arXiv:2406.07524.
With alpha the share that is unmasked, step n unmasks a masked position with chance

    (alpha[n + 1] - alpha[n]) / (1 - alpha[n])

whatever the model says. One uniform number u for each position serves all its coins: it is unmasked at the
first n with u < alpha[n + 1]. `OneByOne` is the limit of many steps, an autoregressive model in a random
order: Hoogeboom et al. 2022, arXiv:2110.02037.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.diffusion.checks import checked_numbers, checked_steps


@runtime_checkable
class Schedule(Protocol):
    """N steps, which may depend on the number of positions."""

    def times(self, length: int) -> torch.Tensor:
        """f64[N]: what the model is told at each step."""

    def moments(self, uniform: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """i64[B, length]: the step, 0 to N - 1, that unmasks each position; of masked ones only it is read.

        uniform: f64[B, length] in (0, 1). masked: bool[B, length].
        """


class Unmasking:
    """Each position by coins of its own; see above.

    alphas  N + 1 numbers that do not fall, from 0 to 1: the share unmasked before each step and at the end.
    times   N numbers; 1 - n / N by default.
    """

    @checked
    def __init__(self, alphas: Sequence[float], *, times: Sequence[float] | None = None) -> None:
        self._alphas = torch.tensor(checked_numbers("alphas", alphas), dtype=torch.float64)
        fits = self._alphas.ndim == 1 and len(self._alphas) >= 2
        if not (fits and self._alphas[0] == 0 and self._alphas[-1] == 1 and self._alphas.diff().ge(0).all()):
            raise OutpaceError(
                "alphas are not accepted: two or more that do not fall, the first 0, the last 1"
            )
        num_steps = len(self._alphas) - 1
        told = [1 - step / num_steps for step in range(num_steps)] if times is None else times
        self._times = torch.as_tensor(told, dtype=torch.float64)
        if self._times.shape != (num_steps,) or not self._times.isfinite().all():
            raise OutpaceError(f"times are not accepted: finite numbers, one for each of {num_steps} steps")

    def times(self, length: int) -> torch.Tensor:
        """f64[N]."""
        return self._times

    def moments(self, uniform: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """i64[B, length]."""
        return torch.searchsorted(self._alphas[1:].to(uniform.device), uniform, right=True)


class OneByOne:
    """One position a step in a random order. N is the length; the model is told the share that is masked."""

    def times(self, length: int) -> torch.Tensor:
        """f64[length]: 1, 1 - 1 / length, ...; a sequence that is partly known begins further on."""
        return 1 - torch.arange(length, dtype=torch.float64) / length

    def moments(self, uniform: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """i64[B, length]: ranks, the known positions first."""
        return uniform.masked_fill(~masked, -1.0).argsort(1).argsort(1)


def linear_unmasking(num_steps: int) -> Unmasking:
    """Equal shares at every step."""
    num_steps = checked_steps(num_steps)
    return Unmasking([step / num_steps for step in range(num_steps + 1)])


def cosine_unmasking(num_steps: int) -> Unmasking:
    """alpha = 1 - cos(pi/2 n/N): few positions at first (Chang et al. 2022, arXiv:2202.04200)."""
    num_steps = checked_steps(num_steps)
    turns = [step / num_steps for step in range(num_steps)]
    return Unmasking([*(1 - math.cos(math.pi / 2 * turn) for turn in turns), 1.0])
