"""Whole steps of the rules with laws: every tree and every coin enumerated, and measured on the loop."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, cast
from unittest import mock

import numpy as np
import pytest

from outpace.core.contracts import Rule
from outpace.core.sampling import Sampling, warp
from outpace.core.steps import Ask, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.decode.step import step
from outpace.rules import RULES, block, walk
from outpace.rules.block import Block
from outpace.rules.speculative import Speculative
from outpace.rules.walk import chance
from outpace.targets.table import TableTarget
from tests.fakes import TableDraft, Wide
from tests.laws import drafts_of, over_coins
from tests.rows import opened

SAMPLING = Sampling(temperature=1.0, top_p=0.95)
PROMPT = [1, 2]
LAW_RULES = [name for name in RULES.names() if RULES.create(name).needs_law]


def tables(seed: int, *, spread: float = 1.0) -> tuple[TableTarget, TableTarget]:
    """A target and a drafter; some tokens have no chance after some texts."""
    both = [
        TableTarget.random(vocab_size=3, order=2, spread=spread, seed=2 * seed + i, context_length=10**6)
        for i in (0, 1)
    ]
    for table, never in zip(both, np.random.default_rng(seed).random((2, 3, 3, 3)) < 0.1, strict=True):
        table.table[never] = -np.inf
        table.table[(never.all(-1))] = 0
    return both[0], both[1]


def law_after(table: TableTarget, text: list[int]) -> np.ndarray:
    return warp(table.after(text), SAMPLING)


def text_of(tree: TokenTree, node: int) -> list[int]:
    return [*PROMPT, *(tree.token_list[i] for i in tree.path_to(node)[1:])]


def all_trees(q: TableTarget, draw: Draw, width: int, levels: int) -> Iterator[tuple[float, TokenTree]]:
    """Every tree that a drafter with the law q may propose, with its probability."""

    def grown(mass: float, tree: TokenTree, left: int) -> Iterator[tuple[float, TokenTree]]:
        if not left:
            yield mass, tree
            return
        nodes = [node for node, depth in enumerate(tree.shape.depths) if depth == tree.shape.height]
        laws = {node: law_after(q, text_of(tree, node)) for node in nodes}
        options = [drafts_of(laws[node], draw, width).items() for node in nodes]
        for drawn in itertools.product(*options):
            places = [(node, x) for node, (xs, _) in zip(nodes, drawn, strict=True) for x in xs]
            parents, tokens = zip(*places, strict=True)
            bigger = tree.extend(parents, tokens, logq=[0.0] * len(tokens), laws=laws, draw=draw)
            yield from grown(mass * float(np.prod([m for _, m in drawn])), bigger, left - 1)

    yield from grown(1.0, TokenTree.root(PROMPT[-1]), levels)


class Laws:
    """Scores whose choice after a node is the law of the choice."""

    def __init__(self, p: TableTarget, tree: TokenTree) -> None:
        self.choices = [law_after(p, text_of(tree, node)) for node in range(tree.num_nodes)]

    def law(self, node: int, sampling: Sampling) -> np.ndarray:
        return self.choices[node].copy()


def judgements(rule: Rule, p: TableTarget, tree: TokenTree) -> Iterator[tuple[float, Verdict, np.ndarray]]:
    """Every verdict with its probability, and the law of its token."""

    def judged(toss: Any) -> Verdict:
        parts: Any = {"tosses": lambda seed, position: toss, "stand_in": lambda left, p, seed, position: left}
        with mock.patch.multiple(walk, **parts), mock.patch.multiple(block, **parts):
            return rule.judge(tree, cast("Any", Laws(p, tree)), SAMPLING, 0)

    for mass, verdict in over_coins(judged):
        law = np.asarray(verdict.token)
        yield mass, verdict, law / (law.sum() or 1.0)


def step_law(
    rule: Rule, p: TableTarget, q: TableTarget, *, width: int, levels: int
) -> tuple[dict[tuple[int, ...], float], float]:
    """The exact law of the first levels + 1 tokens, one step and then plain; the mean number kept."""
    law: dict[tuple[int, ...], float] = defaultdict(float)
    kept = 0.0

    def finish(tokens: tuple[int, ...], mass: float) -> None:
        if mass > 0 and len(tokens) <= levels:
            for x, px in enumerate(law_after(p, [*PROMPT, *tokens])):
                finish((*tokens, x), mass * px)
        elif mass > 0:
            law[tokens] += mass

    for drafted, tree in all_trees(q, rule.draw, width, levels):
        for mass, verdict, of_token in judgements(rule, p, tree):
            kept += drafted * mass * len(verdict.path)
            tokens = tuple(tree.token_list[node] for node in verdict.path)
            for x, px in enumerate(of_token):
                finish((*tokens, x), drafted * mass * px)
    return dict(law), kept


def error(law: dict[tuple[int, ...], float], p: TableTarget, length: int) -> float:
    right = p.law_of(PROMPT, length, SAMPLING)
    return max(abs(law.get(tokens, 0.0) - right.get(tokens, 0.0)) for tokens in {*law, *right})


SHAPES = {"chain": (1, 3), "tree": (2, 2)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LAW_RULES)
def test_a_step_has_the_targets_law(name: str, shape: str) -> None:
    width, levels = SHAPES[shape]
    for seed in range(2):
        p, q = tables(seed)
        law, _ = step_law(RULES.create(name), p, q, width=width, levels=levels)
        assert error(law, p, levels + 1) < 1e-12


class EarlyBreak(Block):
    """Block verification that stops at the first coin that does not come up."""

    def judge(self, tree: TokenTree, scores: Any, sampling: Sampling, position: int) -> Verdict:
        def impatient(seed: int, position: int) -> Any:
            toss, failed = tosses(seed, position), False

            def once(chance: float) -> bool:
                nonlocal failed
                failed = failed or not toss(chance)
                return not failed

            return once

        tosses = walk.tosses
        with mock.patch.object(block, "tosses", impatient):
            return super().judge(tree, scores, sampling, position)


def test_enumeration_catches_wrong_blocks() -> None:
    p, q = tables(1)

    def wrong(rule: Rule, **parts: Any) -> float:
        with mock.patch.multiple(block, **{"chance": chance, **parts}):
            return error(step_law(rule, p, q, width=1, levels=3)[0], p, 4)

    assert wrong(Block()) < 1e-12
    assert wrong(EarlyBreak()) > 1e-3
    assert wrong(Block(), chance=lambda p, q: p / q) > 1e-3  # P without its cap at 1
    assert wrong(Block(), stop_chance=lambda over, reach: reach) > 1e-3  # h_g's formula for every i


def test_tokens_per_call_follow_the_formula() -> None:
    """With one alpha at every position: (1 - alpha^(g + 1)) / (1 - alpha)."""
    for seed in range(4):
        p, q = tables(seed)
        for table in (p, q):
            table.table[:] = table.table[0, 0]
        alpha = np.minimum(law_after(p, PROMPT), law_after(q, PROMPT)).sum()
        for g in (1, 2, 3):
            _, kept = step_law(Speculative(), p, q, width=1, levels=g)
            assert kept + 1 == pytest.approx((1 - alpha ** (g + 1)) / (1 - alpha))


def test_a_block_never_keeps_less_than_one_by_one() -> None:
    gains = []
    for seed, g in itertools.product(range(25), (2, 3)):
        p, q = tables(seed, spread=0.5 + seed % 3)
        one_by_one = step_law(Speculative(), p, q, width=1, levels=g)[1]
        gains.append(step_law(Block(), p, q, width=1, levels=g)[1] - one_by_one)
    assert min(gains) > -1e-12 and max(gains) > 0.05 and np.mean(gains) > 0.01


def test_the_worked_example_of_a_block() -> None:
    """p = 1/3, 2/3 and q = 2/3, 1/3: of two drafts, 10/9 are kept one by one and 11/9 as a block."""
    p, q = (TableTarget(np.log(np.tile(law, (2, 1)))) for law in ([1 / 3, 2 / 3], [2 / 3, 1 / 3]))
    with mock.patch(f"{__name__}.SAMPLING", Sampling(temperature=1.0)), mock.patch(f"{__name__}.PROMPT", [0]):
        assert step_law(Speculative(), p, q, width=1, levels=2)[1] == pytest.approx(10 / 9)
        assert step_law(Block(), p, q, width=1, levels=2)[1] == pytest.approx(11 / 9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LAW_RULES)
def test_as_many_are_kept_as_enumeration_says(name: str, shape: str) -> None:
    """The mean of one step over 1500 seeds; 4.5 standard errors are passed once in 150 000."""
    width, levels = SHAPES[shape]
    p, q = tables(0)
    rule, drafter = RULES.create(name), TableDraft(q, Wide(width, levels))
    rows, _ = opened(p, [PROMPT[:-1]] * 1500)
    asks = [
        Ask(
            PROMPT[-1], 1, Sampling(1.0, top_p=0.95, seed=seed), 99, levels, row=row, draw=rule.draw, law=True
        )
        for seed, row in enumerate(rows)
    ]
    steps, _, _ = step(p, drafter, rule, [list(PROMPT) for _ in rows], asks)
    kept = np.array([len(one.verdict.path) for one in steps])
    expected = step_law(rule, p, q, width=width, levels=levels)[1]
    assert abs(kept.mean() - expected) < 4.5 * kept.std() / np.sqrt(len(kept))
