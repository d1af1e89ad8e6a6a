"""The tests of laws themselves: their tails against tabulated values, and that they can say no."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from tests.laws import binomial_test, chi2_tail, g_test, ks_test, ks_two_samples, normal


@pytest.mark.parametrize(
    ("x", "degrees", "tail"),
    [(3.841459, 1, 0.05), (9.210340, 2, 0.01), (15.086272, 5, 0.01), (29.588298, 10, 0.001), (0.0, 3, 1.0)],
)
def test_chi2_tail_agrees_with_the_tables(x: float, degrees: int, tail: float) -> None:
    assert math.isclose(chi2_tail(x, degrees), tail, rel_tol=1e-5)


def test_g_test_is_uniform_under_the_law_and_rejects_another() -> None:
    rng = random.Random(1)
    law = {"a": 0.5, "b": 0.3, "c": 0.15, "d": 0.05}
    values = [g_test(rng.choices(list(law), list(law.values()), k=500), law) for _ in range(400)]
    assert 0.02 < sum(p < 0.05 for p in values) / len(values) < 0.09
    assert g_test(rng.choices("abcd", [0.45, 0.35, 0.15, 0.05], k=5000), law) < 1e-6
    assert g_test(["a", "b", "e"], law) == 0.0


@pytest.mark.parametrize(("factor", "tail"), [(1.3581, 0.05), (1.6276, 0.01), (1.9495, 0.001)])
def test_ks_tails_agree_with_the_tables(factor: float, tail: float) -> None:
    """The critical distances of large samples, factor / sqrt(n) and factor sqrt(2 / n)."""
    num = 10_000
    middles = (np.arange(num) + 0.5) / num  # of a uniform law: 1 / 2n away
    moved = middles + factor / math.sqrt(num) - 0.5 / num
    assert math.isclose(ks_test(moved, lambda x: x.clip(0, 1)), tail, rel_tol=1e-2)
    steps = round(factor * math.sqrt(2 * num))
    assert math.isclose(ks_two_samples(middles, middles + (steps - 0.5) / num), tail, rel_tol=3e-2)


def test_ks_is_uniform_under_the_law_and_rejects_others() -> None:
    rng = np.random.default_rng(1)
    ones = [ks_test(rng.standard_normal(500), normal) for _ in range(400)]
    twos = [ks_two_samples(rng.standard_normal(500), rng.standard_normal(500)) for _ in range(400)]
    for values in (ones, twos):
        assert 0.02 < sum(p < 0.05 for p in values) / len(values) < 0.09
    one, two = rng.standard_normal((2, 5000))
    for wrong in (one + 0.1, one * 1.2, np.abs(one)):
        assert ks_test(wrong, normal) < 1e-6
    for wrong in (one + 0.15, one * 1.3, np.abs(one)):
        assert ks_two_samples(wrong, two) < 1e-6


@pytest.mark.parametrize(("num", "chance"), [(50, 0.3), (200, 0.02), (200, 0.9)])
def test_the_binomial_bound_holds_and_is_of_use(num: int, chance: float) -> None:
    masses = [math.comb(num, k) * chance**k * (1 - chance) ** (num - k) for k in range(num + 1)]
    for alpha in (0.1, 1e-2, 1e-4):
        rejected = sum(mass for k, mass in enumerate(masses) if binomial_test(k, num, chance) < alpha)
        assert rejected <= alpha
    expected = round(num * chance)
    assert binomial_test(expected, num, chance) > 0.9
    assert binomial_test(num - expected, num, chance) < 1e-3
    assert (binomial_test(num, num, 1.0), binomial_test(num - 1, num, 1.0)) == (1.0, 0.0)
