"""Which nodes are worth their place: against every number of them, tried."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from outpace.pricing.costs import CallCosts, convex, straight
from outpace.pricing.worth import CONTEXT, AtLeast, Priced

CHANCES = st.lists(st.floats(0.001, 1.0), min_size=0, max_size=8)


def test_a_chance_that_is_asked_for() -> None:
    worth = AtLeast(0.2)
    assert worth.passes(np.array([0.1, 0.2, 0.9]), 5, 2.0).tolist() == [False, True, True]
    assert worth.goes_on(0.0, 9.0)


@given(
    CHANCES, st.integers(1, 6), st.floats(1.0, 4.0), st.lists(st.floats(0.001, 2.0), min_size=1, max_size=5)
)
def test_priced_nodes_are_those_of_the_most_tokens_per_second(
    chances: list[float], nodes: int, expected: float, steps: list[float]
) -> None:
    sizes = [1, *range(3, 3 + 3 * len(steps), 3)]
    costs = CallCosts(sizes, [1], [np.cumsum([1.0, *steps])])
    passed = Priced(lambda: costs, 0.0, 20).passes(np.array(chances), nodes, expected)
    t = [0.0, *convex(costs.curve(21, CONTEXT).tolist())]
    ordered = sorted(chances, reverse=True)
    speeds = [(expected + sum(ordered[:n])) / t[nodes + n] for n in range(len(chances) + 1)]
    taken = int(passed.sum())
    assert sorted(np.array(chances)[passed], reverse=True) == ordered[:taken]
    assert speeds[taken] >= max(speeds) * (1 - 1e-9)


def test_costs_are_asked_for_once_and_late() -> None:
    asked = []

    def costs() -> CallCosts:
        asked.append(1)
        return straight(0.25)

    worth = Priced(costs, 0.5, 4)
    assert not asked
    # A second node adds a quarter to the call, a third a fifth; each has to add as much to the tokens.
    assert worth.passes(np.array([0.24, 0.26]), 1, 1.0).tolist() == [False, True]
    assert worth.passes(np.array([0.26]), 99, 1.0).tolist() == [True]  # beyond the most as at it
    assert asked == [1]


def test_a_level_has_to_be_worth_its_draft() -> None:
    worth = Priced(lambda: straight(0.1), 0.3, 4)
    assert worth.goes_on(0.31, 1.0) and not worth.goes_on(0.31, 1.1)
