"""Call costs: interpolation by hand, and a measurement on a target whose clock we hold."""

from __future__ import annotations

import numpy as np
import pytest

from outpace.pricing import clock
from outpace.pricing import costs as costs_
from outpace.pricing.costs import LARGE, CallCosts, LiveCosts, are_costs, convex, straight
from outpace.targets.table import TableTarget


def test_between_and_beyond_what_was_timed() -> None:
    costs = CallCosts([1, 2, 4], [100, 200], [[1.0, 2.0, 3.0], [2.0, 4.0, 8.0]])
    assert costs.curve(6, 100) == pytest.approx([1, 2, 2.5, 3, 3.5, 4])
    assert costs.curve(4, 150) == pytest.approx([1.5, 3, 4.25, 5.5])
    assert costs.curve(3, 10) == pytest.approx([1, 2, 2.5]), "shorter texts cost what the shortest did"
    assert costs.curve(2, 300) == pytest.approx([3, 6])


def test_a_larger_block_never_costs_less() -> None:
    costs = CallCosts([1, 2, 3], [1], [[1.0, 3.0, 2.0]])
    assert costs.curve(3, 1) == pytest.approx([1, 3, 3])


def test_one_size_alone_is_a_constant() -> None:
    assert CallCosts([1], [1], [[2.0]]).curve(3, 5) == pytest.approx([2, 2, 2])
    assert straight(0.5).curve(3, 9) == pytest.approx([1, 1.5, 2])


def test_it_measures_what_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances with the nodes: 10 s a call and 1 s a node, twice that behind long texts."""
    now = 0.0

    class Timed(TableTarget):
        def score(self, calls):  # type: ignore[no-untyped-def]
            nonlocal now
            now += (10 + calls[0].tree.num_nodes) * (2 if self.length(calls[0].row) > 100 else 1)
            return super().score(calls)

    monkeypatch.setattr(clock, "now", lambda: now)
    target = Timed.random(vocab_size=5)
    costs = CallCosts.measure(target)
    assert target.num_rows == 0
    assert costs.contexts.tolist() == list(costs_.CONTEXTS)
    assert np.array_equal(costs.seconds[0], 10 + np.array(costs_.SIZES))
    assert np.array_equal(costs.seconds[1], 2 * costs.seconds[0])


def test_a_short_context_is_measured_as_far_as_it_goes() -> None:
    target = TableTarget.random(vocab_size=5, context_length=20)
    costs = CallCosts.measure(target, rounds=1)
    assert costs.sizes.max() < 20 and len(costs.contexts) == 1


def test_live_costs_follow_small_and_large_calls_apart() -> None:
    """Memory gets faster, arithmetic slower: one node takes half as long, LARGE and more twice."""
    measured = CallCosts([1, 8, 16], [1], [[1.0, 2.0, 4.0]])
    live = LiveCosts([1, 8, 16], [1], [[1.0, 2.0, 4.0]])
    assert live.curve(16, 1) == pytest.approx(measured.curve(16, 1))
    for _ in range(200):
        live.learn(1, 1, 0.5)
        live.learn(LARGE, 1, 4.0)
    factors = live.curve(16, 1) / measured.curve(16, 1)
    assert factors[0] == pytest.approx(0.5, rel=0.02)
    assert factors[LARGE - 1 :] == pytest.approx(np.full(17 - LARGE, 2.0), rel=0.02)
    assert np.all(np.diff(factors) > -1e-9)


def test_one_interrupted_call_changes_little() -> None:
    live = LiveCosts([1, 8], [1], [[1.0, 2.0]])
    live.learn(1, 1, 1000.0)
    assert live.curve(1, 1)[0] < 1.1


def test_measured_costs_stay() -> None:
    costs = straight(0.1)
    costs.learn(1, 1, 9.0)
    assert costs.curve(2, 1) == pytest.approx([1.0, 1.1])


def test_arrays_from_a_file_are_costs_or_are_told_apart() -> None:
    measured = CallCosts.measure(TableTarget.random(vocab_size=5, context_length=20), rounds=1)
    right = {"sizes": measured.sizes, "contexts": measured.contexts, "seconds": measured.seconds}
    assert are_costs(right)
    seconds = measured.seconds
    for change in (
        {"more": seconds},
        {"sizes": measured.sizes[::-1]},
        {"sizes": measured.sizes[:-1]},
        {"sizes": np.append(measured.sizes[:-1], np.int64(-(2**63)))},  # the difference wraps around
        {"sizes": measured.sizes - 1},
        {"sizes": measured.sizes.astype(float)},
        {"sizes": measured.sizes[0]},
        {"contexts": measured.contexts[:0]},
        {"contexts": np.array(["x"])},
        {"seconds": seconds * 0},
        {"seconds": seconds * np.nan},
        {"seconds": seconds * np.inf},
        {"seconds": np.full_like(seconds, 1e300)},
        {"sizes": np.append(measured.sizes[:-1], np.int64(2**62))},
        {"seconds": -seconds},
        {"seconds": seconds.T},
        {"seconds": seconds.astype(complex)},
        {"seconds": seconds[0]},
    ):
        assert not are_costs(right | change), change
    assert not are_costs({"sizes": measured.sizes})


def test_convex_curves() -> None:
    assert convex([1.0, 1.0, 4.0, 4.0, 4.0, 9.0]) == pytest.approx([1.0, 1.0, 2.0, 3.0, 4.0, 9.0])
    assert convex([2.0]) == [2.0]
