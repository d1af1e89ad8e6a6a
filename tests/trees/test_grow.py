"""Candidates follow the laws that their draws claim, and the growth loop keeps to what it was asked.

The G-tests of this file together give a false alarm with probability 1e-4; the seeds are fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.edits import Edit
from outpace.core.sampling import Sampling, choose, gumbel, survivors, warp
from outpace.core.steps import Ask
from outpace.core.tree import Draw, TokenTree
from outpace.pricing.costs import straight
from outpace.trees import TREES
from outpace.trees.chain import Chain
from outpace.trees.dynamic import Dynamic
from outpace.trees.grow import draw_candidates, grow_trees, paced_by, point_law, traits_of
from outpace.trees.static import Static
from tests.laws import FALSE_ALARM_RATE, g_test
from tests.strategies import logits, samplings
from tests.trees.growing import POSITION, ROOT, Paths, grow, softmax

LOGITS = np.array([[0.3, 1.1, -0.4, 0.9, -1.0]], np.float32)
VOCAB_SIZE = LOGITS.shape[1]
NUM_SEEDS, NUM_G_TESTS = 4000, 6
THRESHOLD = FALSE_ALARM_RATE / NUM_G_TESTS
TREE = TokenTree.root(ROOT)


def drawn(draw: Draw, width: int, seed: int) -> tuple[int, ...]:
    ask = Ask(ROOT, POSITION, Sampling(temperature=0.8, seed=seed), 9, 9, draw=draw)
    candidates = draw_candidates(TREE, [0], LOGITS, ask, width)
    assert candidates.draw == draw
    return tuple(candidates.tokens[0, candidates.logq[0] > -np.inf].tolist())


def independent(q: np.ndarray) -> dict[tuple[int, ...], float]:
    pairs = itertools.product(range(VOCAB_SIZE), repeat=2)
    return {(a, b): q[a] * q[b] for a, b in pairs}


def successive(q: np.ndarray) -> dict[tuple[int, ...], float]:
    return {
        (a, b, c): q[a] * q[b] / (1 - q[a]) * q[c] / (1 - q[a] - q[b])
        for a, b, c in itertools.permutations(range(VOCAB_SIZE), 3)
    }


def hub(q: np.ndarray) -> dict[tuple[int, ...], float]:
    top = int(np.argmax(q))
    others = [x for x in range(VOCAB_SIZE) if x != top]
    return {(x, top): q[x] for x in others} | {(top, x): q[top] * q[x] / (1 - q[top]) for x in others}


@pytest.mark.parametrize(
    ("draw", "width", "law"),
    [("iid", 2, independent), ("without_replacement", 3, successive), ("hub", 2, hub)],
    ids=["iid", "without_replacement", "hub"],
)
def test_children_follow_the_law_of_their_draw(
    draw: Draw, width: int, law: Callable[[np.ndarray], dict[tuple[int, ...], float]]
) -> None:
    sample = [drawn(draw, width, seed) for seed in range(NUM_SEEDS)]
    q = softmax(LOGITS[0] / 0.8)
    assert g_test(sample, law(q)) > THRESHOLD
    # The test would tell another temperature.
    assert g_test(sample, law(softmax(LOGITS[0]))) < 1e-3 * THRESHOLD


def test_draws_below_one_another_are_independent() -> None:
    """Two levels of a chain of iid draws: the law of the pair is the product."""
    paths = Paths(3, seed=4)
    sample = []
    for seed in range(NUM_SEEDS):
        tree = grow(Chain(length=2), paths, Sampling(temperature=1.0, seed=seed), draw="iid")
        sample.append(tuple(tree.token_list[1:]))
    first = softmax(paths.after([ROOT]))
    second = [softmax(paths.after([ROOT, a])) for a in range(3)]
    assert g_test(sample, {(a, b): first[a] * second[a][b] for a in range(3) for b in range(3)}) > THRESHOLD


@pytest.mark.parametrize("draw", ["iid", "hub"])
def test_fresh_noise_is_fresh_for_every_root(draw: Draw) -> None:
    """What one root drew tells nothing of what the next one draws for the same position.

    Even where node numbers agree: node 2 is of level 2 in a chain and of level 1 in a fan.
    """
    q = softmax(LOGITS[0])
    chain, fan = TokenTree.chain(ROOT, [2, 3]), TokenTree([2, 3, 0], [-1, 0, 0])
    sample = []
    for seed in range(NUM_SEEDS):
        sampling = Sampling(temperature=1.0, seed=seed)
        early = draw_candidates(chain, [2], LOGITS, Ask(ROOT, POSITION, sampling, 9, 9, draw=draw), 1)
        late = draw_candidates(fan, [2], LOGITS, Ask(2, POSITION + 1, sampling, 9, 9, draw=draw), 1)
        sample.append((int(early.tokens[0, 0]), int(late.tokens[0, 0])))
    assert g_test(sample, independent(q)) > THRESHOLD


@given(logits(6), samplings())
def test_with_the_targets_law_the_first_candidate_is_its_choice(
    after: np.ndarray, sampling: Sampling
) -> None:
    ask = Ask(ROOT, POSITION, sampling, 9, 9, law=False)
    [choice] = choose(after[None], sampling, [POSITION + 1])
    assert draw_candidates(TREE, [0], after[None], ask, 3).tokens[0, 0] == choice


@given(logits(6), samplings(greedy=False))
def test_a_point_draw_tells_how_likely_each_token_is_to_be_chosen(
    after: np.ndarray, sampling: Sampling
) -> None:
    """The target's logits being the draft's with Gumbel noise of scale 1: softmax of what is known."""
    ask = Ask(ROOT, POSITION, sampling, 9, 9, law=False)
    candidates = draw_candidates(TREE, [0], after[None], ask, 6)
    assert candidates.draw == "point"
    kept = survivors(after, sampling)
    noisy = after[kept] + sampling.temperature * gumbel(sampling.seed, POSITION + 1, kept)
    expected = np.zeros(6)
    expected[kept] = softmax(noisy)
    assert np.allclose(candidates.laws[0], expected, atol=1e-5)
    ranked = candidates.tokens[0, candidates.logq[0] > -np.inf]
    assert np.all(np.diff(candidates.laws[0][ranked]) <= 1e-7)


@given(logits(6), samplings(greedy=False), st.sampled_from(["iid", "without_replacement", "hub"]))
def test_laws_are_those_of_the_rows_sampling(after: np.ndarray, sampling: Sampling, draw: Draw) -> None:
    candidates = draw_candidates(TREE, [0], after[None], Ask(ROOT, 7, sampling, 9, 9, draw=draw), 3)
    law = warp(after, sampling)
    assert np.array_equal(candidates.laws[0], law)
    there = candidates.logq[0] > -np.inf
    assert np.allclose(np.exp(candidates.logq[0, there]), law[candidates.tokens[0, there]], rtol=1e-5)


def test_edits_are_added_before_the_draw() -> None:
    def edit(path: Sequence[int]) -> Edit | None:
        return None if path else Edit([1, 3], [-np.inf, -np.inf])

    for sampling in (Sampling(), Sampling(temperature=1.0)):
        ask = Ask(ROOT, POSITION, sampling, 9, 9, edit=edit)
        candidates = draw_candidates(TREE, [0], LOGITS, ask, VOCAB_SIZE)
        assert set(candidates.tokens[0, candidates.logq[0] > -np.inf].tolist()) == {0, 2, 4}


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
@pytest.mark.parametrize("law", [True, False])
def test_where_an_edit_leaves_nothing_a_draft_ends(sampling: Sampling, law: bool) -> None:
    """As behind the end of a grammar's text, which a drafter may well reach."""

    def edit(path: Sequence[int]) -> Edit | None:
        return Edit(allowed=np.zeros(VOCAB_SIZE, bool)) if len(path) == 2 else None

    ask = Ask(ROOT, POSITION, sampling, 9, 9, edit=edit, law=law)
    for policy in (Chain(length=5), Static(widths="2,2,1,1")):
        [tree] = grow_trees([ask], policy, Paths(4).step)
        assert tree.shape.height == 2


def test_a_row_that_cannot_run_stays_as_it_is() -> None:
    paths = Paths(4)
    asks = [Ask(ROOT, POSITION, Sampling(), 9, 9)] * 2

    def step(
        rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> list[np.ndarray | None]:
        after = paths.step(rows, trees, nodes)
        full = [row == 0 and tree.num_nodes == 3 for row, tree in zip(rows, trees, strict=True)]
        return [None if stop else logits for stop, logits in zip(full, after, strict=True)]

    short, long = grow_trees(asks, Chain(length=5), step)
    assert (short.num_nodes, long.num_nodes) == (3, 6)
    assert short.token_list == long.token_list[:3]


def test_tokens_are_picked_only_where_nobody_reads_more() -> None:
    def pick(
        rows: object, trees: object, nodes: Sequence[Sequence[int]], width: int
    ) -> list[list[list[int]]]:
        return [[list(range(width)) for _ in wanted] for wanted in nodes]

    paths = Paths(8)

    def picked(policy: Static | Chain | Dynamic, **asked: object) -> bool:
        ask = Ask(ROOT, POSITION, Sampling(), 9, 9, **{"law": False, **asked})  # type: ignore[arg-type]
        before = len(paths.calls)
        [tree] = grow_trees([ask], policy, paths.step, pick=pick)
        if len(paths.calls) > before:
            return False
        assert tree.logq is None and tree.draw == "point"
        return True

    assert picked(Static(widths="2,1")) and picked(Chain())
    assert not picked(Chain(min_p=0.5)) and not picked(Dynamic())
    assert not picked(Chain(), law=True) and not picked(Chain(), edit=lambda path: None)


@pytest.mark.parametrize("drafted", [1, 30, 400, 999, 1000])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_law_of_a_trimmed_vocabulary_is_that_of_all(drafted: int, width: int, temperature: float) -> None:
    """Whether or not most tokens are known to be none: the softmax with the noise, and its best tokens."""
    rng = np.random.default_rng(drafted)
    logits = np.full(1000, -np.inf, np.float32)
    ids = np.sort(rng.choice(1000, drafted, replace=False))
    logits[ids] = rng.normal(size=drafted, scale=3)
    best, law = point_law(logits, Sampling(temperature=temperature, seed=3), 5, width)
    noisy = logits + temperature * gumbel(3, 5, np.arange(1000))
    odds = np.exp(noisy - noisy.max())
    np.testing.assert_allclose(law, odds / odds.sum(), rtol=1e-5)
    assert law.dtype == np.float32 and law.shape == (1000,)
    likeliest = np.argsort(-noisy, kind="stable")[: min(width, drafted)]
    assert best[: len(likeliest)].tolist() == likeliest.tolist()


@pytest.mark.parametrize(
    ("spec", "paced"),
    [
        ("survival:beta=auto", "always"),
        ("survival:beta=0.1", "never"),
        ("sequoia", "always"),
        ("sequoia:auto=false", "never"),
        ("static", "never"),
    ],
)
def test_a_shape_that_is_to_pay_is_paced_although_it_was_named(spec: str, paced: str) -> None:
    """Its prices are of calls: alone it would go on with drafts that never pay."""
    policy = TREES.create(spec, costs=lambda: straight(0.1))
    assert paced_by(policy) == traits_of(policy, own=False).paced == paced
