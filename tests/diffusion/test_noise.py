"""Noise: a pure function of (seed, sample, step, element), with its laws, unrelated to all others."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from outpace.diffusion import noise as hashing
from outpace.diffusion.noise import PRIOR, Noise
from tests.laws import FALSE_ALARM_RATE, ks_test, normal

SAMPLES, STEPS, ELEMENTS = 40, 30, 50
WORD = 1 << 64


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def block(seed: int, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """[SAMPLES, STEPS, ELEMENTS]: neighbours in every direction."""
    samples = torch.arange(SAMPLES).repeat_interleave(STEPS)
    steps = torch.arange(PRIOR, STEPS - 1).repeat(SAMPLES)
    return Noise(seed).normal(samples, steps, (ELEMENTS,), dtype=dtype).reshape(SAMPLES, STEPS, ELEMENTS)


def coins(seed: int) -> torch.Tensor:
    """[SAMPLES, STEPS]: the uniform numbers of the same samples and steps."""
    samples = torch.arange(SAMPLES).repeat_interleave(STEPS)
    return Noise(seed).uniform(samples, torch.arange(PRIOR, STEPS - 1).repeat(SAMPLES)).reshape(-1, STEPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batch_order_shape_and_repetition_change_no_bit(dtype: torch.dtype) -> None:
    noise = Noise(7)
    samples, steps = torch.tensor([0, 3, 3, 900, 2]), torch.tensor([PRIOR, 5, 6, 0, 5])
    whole, chances = noise.normal(samples, steps, (2, 3), dtype=dtype), noise.uniform(samples, steps)
    choices = noise.gumbel(samples, steps, 6)
    assert (whole.shape, whole.dtype, chances.dtype) == ((5, 2, 3), dtype, torch.float64)
    for again in (noise, Noise(7)):
        for i in range(5):
            one, at = samples[i : i + 1], steps[i : i + 1]
            assert torch.equal(again.normal(one, at, (2, 3), dtype=dtype)[0], whole[i])
            assert torch.equal(again.normal(one, at, (6,), dtype=dtype)[0], whole[i].flatten())
            assert torch.equal(again.normal(one, at, (4,), dtype=dtype)[0], whole[i].flatten()[:4])
            assert torch.equal(again.uniform(one, at)[0], chances[i])
            assert torch.equal(again.gumbel(one, at, 6)[0], choices[i])
    order = torch.tensor([4, 1, 0, 3, 2])
    assert torch.equal(noise.normal(samples[order], steps[order], (2, 3), dtype=dtype), whole[order])
    assert len(whole.unique()) == whole.numel(), "no two of them are the same number"
    assert torch.equal(whole, noise.normal(samples, steps, (2, 3), dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("seed", [0, -1, 1 << 63])
def test_laws(seed: int) -> None:
    """Normal, uniform and Gumbel numbers by Kolmogorov and Smirnov's test; 9 of this file's tests."""
    threshold = FALSE_ALARM_RATE / 9
    assert ks_test(block(seed).flatten().numpy(), normal) > threshold
    uniform = coins(seed).flatten().numpy()
    assert ks_test(uniform, lambda x: x) > threshold
    gumbel = Noise(seed).gumbel(torch.arange(2000), torch.full((2000,), 3), 10).flatten().numpy()
    assert ks_test(gumbel, lambda x: np.exp(-np.exp(-x))) > threshold


def test_nothing_is_correlated() -> None:
    """Sums of n products of independent standard numbers, by sqrt(n): normal. One rate for all pairs."""
    one, other, chance = block(0), block(1), coins(0) * 12**0.5 - 3**0.5
    apart = {
        "seeds": one * other,
        "coins": one * chance[..., None],
        "coin steps": chance[:, 1:] * chance[:, :-1],
    }
    apart["coin samples"] = chance[1:] * chance[:-1]
    for lag in (1, 2, 3, 8, 16):
        apart |= {
            f"samples {lag}": one[lag:] * one[:-lag],
            f"steps {lag}": one[:, lag:] * one[:, :-lag],
            f"elements {lag}": one[..., lag:] * one[..., :-lag],
            f"sample and step {lag}": one[lag:, lag:] * one[:-lag, :-lag],
            f"sample against step {lag}": one[lag:, :-lag] * one[:-lag, lag:],
            f"step against element {lag}": one[:, lag:, :-lag] * one[:, :-lag, lag:],
        }
    square = (one**2 - 1) / 2**0.5
    apart |= {f"squares {axis}": square * square.roll(1, axis) for axis in range(3)}
    values = {name: float(pairs.sum()) / math.sqrt(pairs.numel()) for name, pairs in apart.items()}
    p_values = {name: math.erfc(abs(value) / 2**0.5) for name, value in values.items()}
    threshold = FALSE_ALARM_RATE / len(p_values)
    assert {name: p for name, p in p_values.items() if p < threshold} == {}
    mixed = one + 0.05 * one.roll(1, 1)
    found = float((mixed[:, 1:] * mixed[:, :-1]).sum()) / math.sqrt(mixed[:, 1:].numel())
    assert math.erfc(abs(found) / 2**0.5) < threshold, "a twentieth of the step before would be seen"


def test_the_hash_is_splitmix64() -> None:
    """Its first outputs from 1234567, which are published with the generator."""
    gamma = 0x9E3779B97F4A7C15
    counters = torch.tensor([hashing._signed(1234567 + n * gamma) for n in range(3)])
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [value % WORD for value in hashing._mixed(counters).tolist()] == published


def unmixed(value: int) -> int:
    """The counter that is hashed to this value: the finaliser backwards, with Python's own integers."""

    def unshifted(value: int, bits: int) -> int:
        found = value
        for _ in range(64 // bits):
            found = value ^ (found >> bits)
        return found

    value = unshifted(value, 31) * pow(0x94D049BB133111EB, -1, WORD) % WORD
    value = unshifted(value, 27) * pow(0xBF58476D1CE4E5B9, -1, WORD) % WORD
    return (unshifted(value, 30) - 0x9E3779B97F4A7C15) % WORD


def test_uniform_numbers_never_reach_their_ends() -> None:
    values = [0, 1 << 63, (1 << 63) - 1, WORD - 1]
    counters = torch.tensor([hashing._signed(unmixed(value)) for value in values])
    assert [value % WORD for value in hashing._mixed(counters).tolist()] == values
    low, above, below, high = hashing._uniform(counters).tolist()
    assert 0 < low < 1e-15 and 1 - 1e-15 < high < 1
    assert below < 0.5 < above and math.isclose(below + above, 1)
    assert torch.special.ndtri(hashing._uniform(counters)).isfinite().all()
