"""Noise as a pure function of (seed, sample, step, element), so that no batch, window or draft changes it.

A counter is hashed (the finaliser of SplitMix64: Steele, Lea & Flood 2014) to a uniform number of 52 bits;
the inverse of a distribution function makes it normal, or Gumbel's. Whoever draws a step's noise first, or
again after a rejected draft, finds the same numbers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from outpace.core.sampling import fresh_seed

PRIOR = -1
"""The step whose noise the first state is made of."""

MOST_AHEAD = 2**21
"""Numbers that a tape draws ahead for all samples under way."""


class Noise:
    """Normal, Gumbel and uniform numbers for the samples 0, 1, 2, ... of a seed."""

    def __init__(self, seed: int) -> None:
        seed = operator.index(seed)  # numpy's whole numbers do not grow
        self._normal = _signed(fresh_seed(seed, "diffusion normal"))
        self._uniform = _signed(fresh_seed(seed, "diffusion coin"))
        self._gumbel = _signed(fresh_seed(seed, "diffusion choice"))

    def normal(
        self, samples: torch.Tensor, steps: torch.Tensor, shape: Sequence[int], *, dtype: torch.dtype
    ) -> torch.Tensor:
        """[B, *shape]: standard normal noise of sample i64[B] at step i64[B], on their device."""
        uniform = _elements(_keys(self._normal, samples, steps), torch.Size(shape).numel())
        return torch.special.ndtri(uniform).to(dtype).reshape(len(samples), *shape)

    def gumbel(self, samples: torch.Tensor, steps: torch.Tensor, num: int) -> torch.Tensor:
        """f64[B, num]: argmax of it and the logarithms of a law [B, num] is a draw from the law."""
        return -(-_elements(_keys(self._gumbel, samples, steps), num).log()).log()

    def uniform(self, samples: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """f64[B]: a number in (0, 1) for the decision on each of these steps."""
        return _uniform(_keys(self._uniform, samples, steps))


@dataclass(slots=True)
class Tape:
    """What some samples need at the N steps of their chains.

    Where samples are small, a step waits for the number of operations that make its noise, not for their
    size: the noise of the whole chain is drawn at once.

    samples  i64[B]. shape, dtype: of one sample.
    coins    f64[B, N]. ahead: [B, N, *S]; None: drawn when it is asked for.
    """

    source: Noise
    samples: torch.Tensor
    shape: tuple[int, ...]
    dtype: torch.dtype
    coins: torch.Tensor
    ahead: torch.Tensor | None

    @classmethod
    def of(
        cls,
        source: Noise,
        samples: torch.Tensor,
        num_steps: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        *,
        ahead: bool,
    ) -> Tape:
        """Of these samples."""
        steps = torch.arange(num_steps, device=samples.device).expand(len(samples), num_steps)
        coins = source.uniform(samples.repeat_interleave(num_steps), steps.flatten()).reshape(steps.shape)
        tape = cls(source, samples, shape, dtype, coins, None)
        if ahead:
            tape.ahead = tape.normal(steps)
        return tape

    def normal(self, steps: torch.Tensor) -> torch.Tensor:
        """[B, L, *S]: the noise of steps i64[B, L]."""
        if self.ahead is not None:
            return self.ahead[torch.arange(len(steps), device=steps.device)[:, None], steps]
        samples = self.samples.repeat_interleave(steps.shape[1])
        noise = self.source.normal(samples, steps.flatten(), self.shape, dtype=self.dtype)
        return noise.reshape(*steps.shape, *self.shape)

    def uniform(self, steps: torch.Tensor) -> torch.Tensor:
        """f64[B, L]: the numbers that decide on steps i64[B, L]."""
        return self.coins.gather(1, steps)

    def rows(self, chosen: torch.Tensor, new: Tape) -> Tape:
        """Of some samples and new ones."""
        ahead = self.ahead
        if ahead is not None and new.ahead is not None:
            ahead = torch.cat([ahead[chosen], new.ahead])
        samples = torch.cat([self.samples[chosen], new.samples])
        coins = torch.cat([self.coins[chosen], new.coins])
        return Tape(self.source, samples, self.shape, self.dtype, coins, ahead)


def _keys(seed: int, samples: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    return _mixed(_mixed(samples + seed) ^ _mixed(~steps))


def _elements(keys: torch.Tensor, num: int) -> torch.Tensor:
    """f64[B, num]: uniform, one for each element."""
    return _uniform(keys[:, None] + _mixed(torch.arange(num, device=keys.device)))


def _uniform(counters: torch.Tensor) -> torch.Tensor:
    """f64: in (0, 1), both ends excluded. With one bit more, the half would be rounded up to 1."""
    return (_shifted(_mixed(counters), 12).double() + 0.5) * 2.0**-52


def _mixed(values: torch.Tensor) -> torch.Tensor:
    """i64: bits well mixed. Products wrap as those of unsigned numbers do."""
    values = values + _signed(0x9E3779B97F4A7C15)
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)


def _shifted(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Shifted right as if they had no sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The 64-bit number with the sign that torch's integers have."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
