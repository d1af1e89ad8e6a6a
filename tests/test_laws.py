"""The G-test itself: its tail against tabulated values, and that it can say no."""

from __future__ import annotations

import math
import random

import pytest

from tests.laws import chi2_tail, g_test


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
