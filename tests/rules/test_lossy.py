"""The lossy rules on tables made by hand, and the options at which they are `match`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, gumbel, warp
from outpace.core.steps import Ask, RowScores, ScoredCall
from outpace.core.tree import TokenTree
from outpace.rules import RULES
from outpace.targets.table import TableTarget
from tests.rows import on, opened
from tests.strategies import samplings, trees

# Probability after token t: row t.
LAWS = np.array(
    [
        [0.10, 0.50, 0.25, 0.15],
        [0.25, 0.25, 0.25, 0.25],
        [0.97, 0.01, 0.01, 0.01],
        [0.05, 0.35, 0.25, 0.35],
    ]
)
TABLE = TableTarget(np.log(LAWS))
GREEDY = Sampling()


def scored(tree: TokenTree, sampling: Sampling, edit: Any = None, table: TableTarget = TABLE) -> RowScores:
    rows, _ = opened(table, [[3]])
    ask = Ask(tree.token_list[0], 1, sampling, 99, 99, edit=edit)
    return ScoredCall(table.score(on(rows, [tree])), [tree], [ask]).rows()[0]


def judged(
    spec: str, tree: TokenTree, sampling: Sampling = GREEDY, edit: Any = None
) -> tuple[list[int], int]:
    verdict = RULES.create(spec).judge(tree, scored(tree, sampling, edit), sampling, 1)
    assert verdict.exactness == "lossy"
    return list(verdict.path), verdict.token


def test_topk_keeps_what_is_among_the_k_best() -> None:
    # After 0: 1, 2, 3, 0. After 1 all are equal, and the lower id goes first.
    assert judged("topk:k=1", TokenTree.chain(0, [2, 0])) == ([], 1)
    assert judged("topk:k=2", TokenTree.chain(0, [2, 0])) == ([1, 2], 1)
    assert judged("topk:k=2", TokenTree.chain(0, [3])) == ([], 1)
    assert judged("topk:k=3", TokenTree.chain(0, [3])) == ([1], 1)
    assert judged("topk:k=2", TokenTree.chain(1, [1])) == ([1], 0)
    assert judged("topk:k=2", TokenTree.chain(1, [2])) == ([], 0)


def test_the_best_child_is_descended_into() -> None:
    siblings = TokenTree([0, 3, 2, 1], [-1, 0, 0, 0])
    assert judged("topk:k=3", siblings) == ([3], 0)
    assert judged("topk:k=3", siblings.prune([1, 2])) == ([2], 0)
    assert judged("distance:eps=3", siblings) == ([3], 0)
    assert judged("distance:eps=1", TokenTree([2, 3, 2, 1], [-1, 0, 0, 0])) == ([3], 0)
    assert judged("min_block:length=1", siblings) == ([3], 0)
    assert judged("min_block:length=1", siblings.prune([1, 2])) == ([1], 1)


def test_edits_count() -> None:
    """A banned token is not among the best, and the others move up."""

    def ban(path: Sequence[int]) -> Edit:
        return Edit([1], [-np.inf])

    assert judged("topk:k=2", TokenTree.chain(0, [3])) == ([], 1)
    assert judged("topk:k=2", TokenTree.chain(0, [3]), edit=ban) == ([1], 3)
    assert judged("topk:k=4", TokenTree.chain(0, [1]), edit=ban) == ([], 2)
    warm = Sampling(temperature=1.0)
    for seed in range(20):
        one = replace(warm, seed=seed)
        assert judged("typical:eps=0,delta=0", TokenTree.chain(0, [1]), one, ban)[0] == []
        assert judged("topk:k=4", TokenTree.chain(0, [1]), one, ban)[0] == []


@given(trees(max_nodes=8, root=0), samplings(greedy=False), st.integers(1, 4))
def test_topk_under_sampling_ranks_as_the_choice_does(tree: TokenTree, sampling: Sampling, k: int) -> None:
    verdict = RULES.create(f"topk:k={k}").judge(tree, scored(tree, sampling), sampling, 1)
    node = 0
    for child in [*verdict.path, None]:
        position = 1 + tree.shape.depths[node] + 1
        law = warp(TABLE.table[tree.token_list[node]], sampling)
        noisy = {
            x: math.log(law[x]) + gumbel(sampling.seed, position, [x])[0] for x in range(4) if law[x] > 0
        }
        best = sorted(noisy, key=lambda x: -noisy[x])[:k]
        drafted = [tree.token_list[c] for c in tree.children(node)]
        admissible = [x for x in best if x in drafted]
        if child is None:
            assert not admissible and verdict.token == best[0]
        else:
            assert tree.token_list[child] == admissible[0]
            node = child


def test_distance() -> None:
    # After 3 the choice is 1 (ties to the lower id), after 0 it is 1, after 2 it is 0.
    assert judged("distance:eps=0", TokenTree.chain(3, [1])) == ([1], 0)
    assert judged("distance:eps=0", TokenTree.chain(3, [2])) == ([], 1)
    assert judged("distance:eps=1", TokenTree.chain(3, [2, 1])) == ([1, 2], 0)
    assert judged("distance:eps=1", TokenTree.chain(3, [3])) == ([], 1)
    assert judged("distance:eps=2", TokenTree.chain(3, [3])) == ([1], 1)


def test_min_block() -> None:
    chain = TokenTree.chain(0, [3, 3, 3, 1, 0])
    assert judged("min_block:length=0", chain) == ([], 1)
    assert judged("min_block:length=2", chain) == ([1, 2], 1)
    assert judged("min_block:length=3", chain) == ([1, 2, 3, 4, 5], 1)  # then 1 and 0 match
    assert judged("min_block:length=9", TokenTree.chain(0, [2])) == ([1], 0)
    tree = TokenTree([0, 3, 2, 0, 0], [-1, 0, 0, 1, 2])
    assert judged("min_block:length=1", tree) == ([1], 1)


def test_typical() -> None:
    # Entropies: 1.208, 1.386, 0.168 and 1.231 nats, so exp(-H) is 0.299, 0.250, 0.845 and 0.292.
    one = Sampling(temperature=1.0)

    def kept(eps: float, delta: float, root: int, draft: int) -> bool:
        """Whether a draft that the target did not choose is kept."""
        seeds = (replace(one, seed=seed) for seed in range(1000))
        sampling = next(s for s in seeds if scored(TokenTree.root(root), s).choices[0] != draft)
        spec = f"typical:eps={eps},delta={delta}"
        return judged(spec, TokenTree.chain(root, [draft]), sampling)[0] == [1]

    assert kept(0.12, 9.0, 0, 3) and not kept(0.16, 9.0, 0, 3)  # eps alone: 0.15 is over 0.12
    assert kept(1.0, 0.49, 0, 3) and not kept(1.0, 0.51, 0, 3)  # delta alone: 0.15 / 0.299 = 0.502
    assert kept(1.0, 0.99, 1, 2) and not kept(1.0, 1.01, 1, 2)
    assert not kept(0.09, 0.3, 2, 1) and kept(0.09, 0.3, 0, 0)  # what is 0.01 is not typical where H is low
    # The likeliest child, even if another comes first.
    for seed in range(50):
        tree = TokenTree([0, 3, 2], [-1, 0, 0])
        sampling = replace(one, seed=seed)
        choice = scored(tree, sampling).choices[0]
        path, _ = judged("typical:eps=0.05", tree, sampling)
        assert path == ([1] if choice == 3 else [2])


@pytest.mark.parametrize("spec", ["topk:k=1", "distance:eps=0", "min_block:length=0"])
@given(trees(root=1), samplings())
def test_the_strictest_options_are_match(spec: str, tree: TokenTree, sampling: Sampling) -> None:
    scores = scored(tree, sampling)
    verdict = RULES.create(spec).judge(tree, scores, sampling, 1)
    plain = RULES.create("match").judge(tree, scores, sampling, 1)
    assert (verdict.path, verdict.token) == (plain.path, plain.token)


@given(trees(root=1), st.floats(0, 1), st.floats(0, 5))
def test_greedy_typical_is_match(tree: TokenTree, eps: float, delta: float) -> None:
    scores = scored(tree, GREEDY)
    verdict = RULES.create(f"typical:eps={eps},delta={delta}").judge(tree, scores, GREEDY, 1)
    plain = RULES.create("match").judge(tree, scores, GREEDY, 1)
    assert (verdict.path, verdict.token) == (plain.path, plain.token)


@pytest.mark.parametrize(
    "spec",
    [
        "topk:k=0",
        "distance:eps=-1",
        "min_block:length=-1",
        "typical:eps=1.5",
        "typical:delta=-1",
        "typical:eps=nan",
    ],
)
def test_options_are_checked(spec: str) -> None:
    with pytest.raises(OutpaceError, match=f"{spec.partition(':')[0]}'? has .*accepted are"):
        RULES.create(spec)
