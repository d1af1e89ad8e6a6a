"""Every tree policy under every draw: within the ask, connected, drawn as it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.contracts import TreePolicy
from outpace.core.sampling import Sampling, fresh_seed, gumbel, warp
from outpace.core.steps import Ask
from outpace.core.tree import Draw, TokenTree
from outpace.pricing.costs import straight
from outpace.trees import TREES
from outpace.trees.grow import grow_trees
from tests.strategies import samplings
from tests.trees.growing import POSITION, ROOT, Paths, tokens_to

VOCAB_SIZE = 6
TREE_SPECS = [
    *TREES.names(),
    "chain:length=7,min_p=0.4",
    "static:widths=[1,4,2]",
    "static:ranks=[0,1,0.0,0.0.0,0.0.1,0.0.0.0]",
    "dynamic:size=5,k=2,depth=3",
    "sequoia:auto=false,size=12,depth=3,acceptance=[0.1,0.3,0.2]",
    "opt_tree:size=7,k=3,gain=0",
    "survival:beta=auto,k=3,draft_cost=0.01",
    "survival:beta=0,prior=c2t,k=4",
]
DRAWS: tuple[Draw, ...] = ("iid", "without_replacement", "hub")


def make(spec: str) -> TreePolicy:
    policy: TreePolicy = TREES.create(spec, costs=lambda: straight(0.05))
    return policy


@pytest.mark.parametrize("spec", TREE_SPECS)
@pytest.mark.parametrize("draw", DRAWS)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    sampling=samplings(),
    budget=st.integers(0, 20),
    depth=st.integers(0, 6),
    law=st.booleans(),
)
def test_a_tree_keeps_its_promises(
    spec: str, draw: Draw, seed: int, sampling: Sampling, budget: int, depth: int, law: bool
) -> None:
    policy, paths = make(spec), Paths(VOCAB_SIZE, seed=seed)
    ask = Ask(ROOT, POSITION, sampling, budget, depth, draw=draw, law=law)
    [tree] = grow_trees([ask], policy, paths.step)
    assert tree.token_list[0] == ROOT
    assert tree.num_nodes - 1 <= budget and tree.shape.height <= depth
    for nodes in paths.calls:
        assert nodes == sorted(set(nodes))
    for node in range(tree.num_nodes):
        assert len(tree.children(node)) <= policy.width
    if tree.draw == "point":
        return
    assert law and sampling.temperature > 0 and tree.draw == draw and tree.logq is not None
    for node in range(tree.num_nodes):
        children = [tree.token_list[child] for child in tree.children(node)]
        if not children:
            continue
        expected = warp(paths.after(tokens_to(tree, node)), sampling)
        found = tree.law(node)
        assert found is not None and np.array_equal(found, expected)
        assert np.allclose(np.exp(tree.logq[tree.children(node)]), expected[children], rtol=1e-5)
        assert draw == "iid" or len(set(children)) == len(children)
        if draw == "without_replacement":
            support = np.flatnonzero(expected)
            position = POSITION + tree.shape.depths[node] + 1
            fresh = fresh_seed(sampling.seed, "draft 0", POSITION, node)
            noisy = np.log(expected[support]) + gumbel(fresh, position, support)
            assert children == support[np.argsort(-noisy)][: len(children)].tolist()


@pytest.mark.parametrize("spec", TREE_SPECS)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 15), min_size=1, max_size=4))
@settings(max_examples=10)
def test_rows_do_not_see_one_another(spec: str, seed: int, budgets: list[int]) -> None:
    policy, paths = make(spec), Paths(VOCAB_SIZE, seed=seed)
    asks = [
        Ask(row % VOCAB_SIZE, POSITION + row, Sampling(temperature=1.0, seed=row), budget, 5)
        for row, budget in enumerate(budgets)
    ]
    together = grow_trees(asks, policy, paths.step)
    for ask, tree in zip(asks, together, strict=True):
        [alone] = grow_trees([ask], make(spec), paths.step)
        assert (alone.token_list, alone.shape.parent_list, alone.draw) == (
            tree.token_list,
            tree.shape.parent_list,
            tree.draw,
        )


@pytest.mark.parametrize("spec", [spec for spec in TREE_SPECS if not make(spec).traits.reads_logq])
@given(st.integers(0, 10**6), st.integers(0, 15))
@settings(max_examples=10)
def test_picked_tokens_make_the_same_tree(spec: str, seed: int, budget: int) -> None:
    """What is cheaper to get must be what a greedy draw from the logits would take."""
    policy, paths = make(spec), Paths(VOCAB_SIZE, seed=seed)
    ask = Ask(ROOT, POSITION, Sampling(), budget, 5, law=False)

    def pick(
        rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]], width: int
    ) -> list[list[list[int]]]:
        after: Any = paths.step(rows, trees, nodes)
        return [np.argsort(-logits, axis=1, kind="stable")[:, :width].tolist() for logits in after]

    [slow] = grow_trees([ask], policy, paths.step)
    [fast] = grow_trees([ask], policy, paths.step, pick=pick)
    assert (slow.token_list, slow.shape.parent_list) == (fast.token_list, fast.shape.parent_list)


def test_every_registered_policy_is_in_the_suite() -> None:
    assert {spec.partition(":")[0] for spec in TREE_SPECS} == set(TREES.names())
