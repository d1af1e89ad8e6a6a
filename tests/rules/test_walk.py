"""What rules with laws share: coins, stand-ins, and when laws are not used."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.contracts import Rule
from outpace.core.sampling import Sampling, coin
from outpace.core.steps import RowScores
from outpace.core.tree import Draw, TokenTree
from outpace.rules import RULES
from outpace.rules.walk import chance, stand_in, tosses
from tests.strategies import trees

LAW_RULES = [name for name in RULES.names() if RULES.create(name).needs_law]
WARM = Sampling(temperature=1.0, seed=3)


class Canned:
    """Choices, and laws that remember who asked."""

    def __init__(self, choices: list[int], laws: dict[int, Any] | None = None) -> None:
        self.choices = choices
        self.laws = laws or {}
        self.asked: list[int] = []

    def law(self, node: int, sampling: Sampling) -> np.ndarray:
        self.asked.append(node)
        return np.array(self.laws[node], dtype=float)


def judge(rule: Rule, tree: TokenTree, scores: Canned, sampling: Sampling = WARM, position: int = 5) -> Any:
    return rule.judge(tree, cast("RowScores", scores), sampling, position)


@pytest.mark.parametrize("name", LAW_RULES)
@given(trees(), st.data())
def test_another_draw_is_judged_by_the_choices_and_never_with_laws(
    name: str, tree: TokenTree, data: st.DataObject
) -> None:
    rule = RULES.create(name)
    choices = data.draw(st.lists(st.integers(0, 3), min_size=tree.num_nodes, max_size=tree.num_nodes))
    others: list[Draw] = ["iid", "without_replacement", "hub"]
    drawn = [
        TokenTree(
            tree.token_list, tree.shape.parent_list, draw=draw, laws=[np.full(4, 0.25)] * tree.num_nodes
        )
        for draw in others
    ]
    for one in [tree, *drawn]:
        # The rule's own draw, when greedy, is judged by the choices too.
        sampling = Sampling() if one.draw == rule.draw else WARM
        scores = Canned(choices)
        verdict, plain = judge(rule, one, scores, sampling), judge(RULES.create("match"), one, scores)
        assert (verdict.path, verdict.token) == (plain.path, plain.token) and not scores.asked
        assert verdict.exactness == "distribution"


@pytest.mark.parametrize("name", LAW_RULES)
def test_a_certain_draft_is_kept_and_an_impossible_one_never(name: str) -> None:
    """With p one-hot nothing is left to the coins; laws are asked for on the path alone."""
    rule = RULES.create(name)
    even = np.full(3, 1 / 3)
    tree = TokenTree([0, 1, 2, 0, 1], [-1, 0, 0, 1, 3], draw=rule.draw, laws=[even, even, None, even, None])
    for seed in range(20):
        sampling = Sampling(temperature=1.0, seed=seed)
        scores = Canned([9, 9, 9, 9, 2], {0: [0, 1, 0], 1: [1, 0, 0], 3: [0, 1, 0]})
        verdict = judge(rule, tree, scores, sampling)
        assert (verdict.path, verdict.token) == ([1, 3, 4], 2) and scores.asked == [0, 1, 3]
        scores = Canned([9, 9, 9, 9, 9], {0: [0, 1, 0], 1: [0, 0, 1], 3: [0, 1, 0]})
        verdict = judge(rule, tree, scores, sampling)
        assert (verdict.path, verdict.token) == ([1], 2) and scores.asked == [0, 1]


@pytest.mark.parametrize("name", LAW_RULES)
def test_laws_that_are_equal_up_to_rounding_or_tiny_are_no_trouble(name: str) -> None:
    rule = RULES.create(name)
    base = np.array([0.7, 0.3, 0.0, 5e-324])
    for p, q in itertools.product([base, base * (1 + 3e-16), base[::-1].copy()], repeat=2):
        for drafts in itertools.permutations([int(x) for x in np.flatnonzero(q)], 2):
            if rule.draw == "hub" and int(np.argmax(q)) not in drafts:
                continue
            tree = TokenTree([0, *drafts], [-1, 0, 0], draw=rule.draw, laws=[q, None, None])
            for seed in range(5):
                verdict = judge(rule, tree, Canned([0, 1, 1], {0: p}), Sampling(1.0, seed=seed))
                first = tree.token_list[verdict.path[0]] if verdict.path else verdict.token
                assert p[first] > 0


def test_a_law_of_another_vocabulary_is_no_law() -> None:
    tree = TokenTree([0, 1], [-1, 0], draw="iid", laws=[np.full(2, 0.5), None])
    for name in ("speculative", "block"):
        with pytest.raises(AssertionError, match="vocabulary"):
            judge(RULES.create(name), tree, Canned([0, 0], {0: [0.2, 0.3, 0.5]}))


def test_coins_are_new_for_every_step_purpose_and_count() -> None:
    arguments = itertools.product([0, 1, 2**64 - 1], [0, 1, 5000], ["accept", "residual"], range(40))
    coins = [coin(*one) for one in arguments]
    assert len(set(coins)) == len(coins) and all(0 <= c < 1 for c in coins)
    # Kolmogorov-Smirnov at 1e-4: 2.23 / sqrt(n).
    steps = (np.arange(len(coins)) + 0.5) / len(coins)
    assert np.abs(np.sort(coins) - steps).max() < 2.23 / np.sqrt(len(coins))


def test_tosses_come_up_as_often_as_they_should_and_never_or_always_at_the_ends() -> None:
    for probability in (0.0, 0.25, 1.0):
        fell = [toss(probability) for seed in range(400) for toss in [tosses(seed, 7)] for _ in range(5)]
        assert abs(np.mean(fell) - probability) <= 4.5 * np.sqrt(probability * (1 - probability) / 2000)
    one, same, other = tosses(1, 2), tosses(1, 2), tosses(1, 3)
    series = [[toss(0.5) for _ in range(64)] for toss in (one, same, other)]
    assert series[0] == series[1] != series[2]


def test_stand_ins_follow_what_is_left() -> None:
    left, p = np.array([0.0, 0.02, 0.0, 0.06, 0.0]), np.array([0.5, 0.1, 0.1, 0.3, 0.0])
    drawn = np.bincount([stand_in(left, p, seed, 3) for seed in range(4000)], minlength=5)
    assert drawn[[0, 2, 4]].sum() == 0 and abs(drawn[1] - 1000) < 4.5 * np.sqrt(750)
    # Nothing left: rounding alone rejected, and p itself serves.
    drawn = np.bincount([stand_in(np.zeros(5), p, seed, 3) for seed in range(4000)], minlength=5)
    assert drawn[4] == 0 and abs(drawn[0] - 2000) < 4.5 * np.sqrt(1000)


def test_chances() -> None:
    assert chance(0.2, 0.4) == 0.5 and chance(0.4, 0.2) == 1.0 and chance(0.3, 0.3) == 1.0
    assert chance(0.0, 0.5) == chance(0.0, 0.0) == 0.0 and chance(5e-324, 0.0) == 1.0
