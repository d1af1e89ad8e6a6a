"""Sequoia's dynamic programme against all trees, and its choice of size against all sizes."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.pricing.costs import CallCosts, straight
from outpace.trees.sequoia import CONTEXT, Programme, Sequoia
from outpace.trees.template import Ranks
from tests.trees.growing import Paths, grow

Shape = frozenset[Ranks]

CHANCES = st.lists(st.floats(0.01, 0.9), min_size=1, max_size=3)


def all_shapes(num_nodes: int, depth: int, width: int) -> set[Shape]:
    """Every set of nodes that has with a node its parent and its elder siblings."""
    shapes: set[Shape] = {frozenset({()})}
    for _ in range(num_nodes - 1):
        shapes = {
            shape | {child}
            for shape in shapes
            for node in shape
            if len(node) < depth
            for rank in range(width)
            if (child := (*node, rank)) not in shape and (rank == 0 or (*node, rank - 1) in shape)
        }
    return shapes


def chance(node: Ranks, chances: list[float]) -> float:
    return math.prod(chances[rank] for rank in node)


def tokens(shape: Shape, chances: list[float]) -> float:
    return sum(chance(node, chances) for node in shape)


@settings(max_examples=20)
@given(CHANCES, st.integers(2, 7), st.integers(1, 4))
def test_the_programme_finds_the_best_of_all_trees(chances: list[float], nodes: int, depth: int) -> None:
    programme = Programme(chances, 7, 4)
    shapes = all_shapes(nodes, depth, len(chances))
    if not shapes:
        assert programme.tokens[depth, nodes] == -np.inf
        return
    best = max(tokens(shape, chances) for shape in shapes)
    assert programme.tokens[depth, nodes] == pytest.approx(best)
    found = dict(programme.shape(depth, nodes))
    assert frozenset({(), *found}) in shapes
    assert tokens(frozenset({(), *found}), chances) == pytest.approx(best)
    assert all(value == pytest.approx(chance(node, chances)) for node, value in found.items())


@pytest.mark.parametrize("size", [1, 10, 40])
def test_with_falling_chances_the_likeliest_nodes_are_the_best_tree(size: int) -> None:
    chances = [0.55, 0.2, 0.1, 0.06, 0.03]
    heap: list[tuple[float, Ranks]] = [(-1.0, ())]
    total = 0.0
    for _ in range(size + 1):
        value, node = heapq.heappop(heap)
        total -= value
        for rank in range(len(chances) if len(node) < 6 else 0):
            heapq.heappush(heap, (value * chances[rank], (*node, rank)))
    assert Programme(chances, size + 1, 6).tokens[6, size + 1] == pytest.approx(total)


@settings(max_examples=20)
@given(CHANCES.filter(lambda chances: sum(chances) <= 1), st.floats(0.001, 1.0), st.floats(0.0, 1.0))
def test_the_size_that_pays_best(chances: list[float], per_node: float, draft_cost: float) -> None:
    costs = straight(per_node)
    size, depth = 6, 4
    policy = Sequoia(
        size=size,
        depth=depth,
        acceptance=",".join(map(str, chances)),
        draft_cost=draft_cost,
        costs=lambda: costs,
    )
    curve = costs.curve(size + 1, CONTEXT)
    best = 0.0
    for levels in range(1, depth + 1):
        for nodes in range(2, size + 2):
            price = curve[nodes - 1] + draft_cost * curve[0] * levels
            for shape in all_shapes(nodes, levels, len(chances)):
                best = max(best, tokens(shape, chances) / price)
    tree = grow(policy, Paths(8))
    shape = frozenset(ranks(tree))
    price = curve[len(shape) - 1] + draft_cost * curve[0] * tree.shape.height
    assert tokens(shape, chances) / price == pytest.approx(best)


def ranks(tree: object) -> list[Ranks]:
    from outpace.trees.template import ranks_of

    return ranks_of(tree)  # type: ignore[arg-type]


def test_dear_nodes_make_small_trees() -> None:
    def size(per_node: float) -> int:
        return grow(Sequoia(costs=lambda: straight(per_node)), Paths(30)).num_nodes - 1

    assert size(1.0) == 1 < size(0.1) < 10 and size(0.0) == 32


def test_without_auto_the_size_is_as_told() -> None:
    tree = grow(Sequoia(auto=False, size=20, depth=5), Paths(30))
    assert tree.num_nodes - 1 == 20 and tree.shape.height <= 5
    # A tree of one level cannot have more nodes than ranks.
    assert grow(Sequoia(auto=False, size=20, depth=1, acceptance="0.5,0.2"), Paths(30)).num_nodes == 3


def test_costs_are_asked_for_once_and_not_before_a_draft() -> None:
    asked: list[CallCosts] = []

    def costs() -> CallCosts:
        asked.append(straight(0.1))
        return asked[-1]

    policy = Sequoia(costs=costs)
    assert not asked
    grow(policy, Paths(9))
    grow(policy, Paths(9))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"acceptance": "0.9,0.2"}, "at most 1 in all"),
        ({"acceptance": "a,b"}, "numbers > 0"),
        ({"acceptance": "0.5,0"}, "numbers > 0"),
        ({"acceptance": "nan"}, "numbers > 0"),
        ({"size": 0}, "1 to 512"),
        ({"depth": 65}, "1 to 64"),
        ({"draft_cost": -1}, "numbers >= 0"),
        ({}, "auto=false"),
    ],
)
def test_options_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        Sequoia(**options)  # type: ignore[arg-type]
