"""Rules that claim the target's law, by enumeration: every draft and every coin, nothing sampled."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from outpace.rules import RULES
from outpace.rules.kseq import NUM_HALVINGS, factor
from outpace.rules.multi_draft import MultiDraft
from outpace.rules.multi_draft_iid import MultiDraftIid
from outpace.rules.spechub import SpecHub
from outpace.rules.speculative import Speculative
from outpace.rules.walk import Law, NodeRule, Toss, chance
from tests.laws import best_acceptance, drafts_of, node_law, over_coins

NODE_RULES = ["speculative", "multi_draft", "multi_draft_iid", "kseq", "spechub"]
NUM_CHILDREN = {"speculative": [1, 2], "spechub": [1, 2]}


def laws(size: int) -> st.SearchStrategy[np.ndarray]:
    """f64[size] with zeros, ties, laws of one token and masses down to 1e-12."""
    weights = st.sampled_from([0.0, 0.0, 1.0, 1.0, 2.0, 1e-12]) | st.floats(0.01, 1.0)
    return (
        st.lists(weights, min_size=size, max_size=size)
        .filter(lambda ws: max(ws) >= 0.01)
        .map(lambda ws: np.array(ws) / sum(ws))
    )


pairs = st.integers(2, 4).flatmap(lambda size: st.tuples(laws(size), laws(size)))


def rule_of(name: str) -> NodeRule:
    return cast("NodeRule", RULES.create(name))


@pytest.mark.parametrize(
    ("name", "k"), [(name, k) for name in NODE_RULES for k in NUM_CHILDREN.get(name, [1, 2, 3])]
)
@given(pairs)
@example((np.array([0.5, 0.5]), np.array([0.5, 0.5])))
@example((np.array([1.0, 0.0]), np.array([0.0, 1.0])))
def test_the_next_token_has_the_targets_law(name: str, k: int, pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, q = pair
    before = p.copy(), q.copy()
    law, kept = node_law(rule_of(name), p, q, k)
    assert np.abs(law - p).max() < 1e-9
    assert not law[p == 0].any(), "a token that the target never chooses"
    assert kept <= best_acceptance(p, drafts_of(q, rule_of(name).draw, k)) + 1e-9
    assert np.array_equal(p, before[0]) and np.array_equal(q, before[1])


def random_pairs(size: int, num_pairs: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(size)
    return [tuple(rng.dirichlet(np.full(size, rng.choice([0.3, 1.0])), size=2)) for _ in range(num_pairs)]


# Wrong versions. Each has the shape of a right rule and the mistake of a real one.


class NoResidual(Speculative):
    """After a rejection, draws from p again instead of what p has left."""

    def keep(self, p: Law, q: Law, drafts: list[int], toss: Toss) -> int | Law:  # type: ignore[override]
        kept = super().keep(p, q, drafts, toss)
        return kept if isinstance(kept, int) else p


class WrongDraw(MultiDraftIid):
    """The formula of independent drafts for drafts without replacement."""

    draw = "without_replacement"


class WrongDrawBack(MultiDraft):
    """And the other way round."""

    draw = "iid"


class PairsAsTwoDrafts(MultiDraft):
    """SpecHub's pairs judged as if the second were drawn without the first."""

    draw = "hub"


class FixedFactor:
    """K-SEQ with r = 1: keeps more, and overshoots p."""

    draw = "iid"

    def keep(self, p: Law, q: Law, drafts: list[int], toss: Toss) -> int | Law:
        for place, x in enumerate(drafts):
            if toss(chance(p[x], q[x])):
                return place
        return np.maximum(p - q, 0)


class TakenTwice(SpecHub):
    """SpecHub that keeps the hub without counting what it has been given."""

    def keep(self, p: Law, q: Law, drafts: list[int], toss: Toss) -> int | Law:  # type: ignore[override]
        kept = super().keep(p, q, drafts, toss)
        hub = int(np.argmax(q))
        return drafts.index(hub) if not isinstance(kept, int) and toss(p[hub]) else kept


@pytest.mark.parametrize(
    "wrong", [NoResidual, WrongDraw, WrongDrawBack, PairsAsTwoDrafts, FixedFactor, TakenTwice]
)
def test_enumeration_catches_wrong_versions(wrong: type) -> None:
    errors = [np.abs(node_law(wrong(), p, q, 2)[0] - p).max() for p, q in random_pairs(4, 20)]
    assert max(errors) > 0.02 and np.median(errors) > 1e-4


def test_the_worked_example() -> None:
    """By hand: 0.2 + 0.3 + 0.2 are kept, and the rest of 0.3 goes to token 0, to make up its 0.5."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    runs: dict[int, list[Any]] = {
        x: [
            (mass, kept if isinstance(kept, int) else kept.tolist())
            for mass, kept in over_coins(partial(Speculative().keep, p, q, [x]))
        ]
        for x in range(3)
    }
    assert runs[0] == [(1.0, 0)] and runs[1] == [(1.0, 0)]
    assert runs[2] == [(pytest.approx(0.4), 0), (pytest.approx(0.6), [pytest.approx(0.3), 0.0, 0.0])]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_acceptance_is_what_theory_says(k: int) -> None:
    for p, q in random_pairs(4, 25):
        overlap = np.minimum(p, q).sum()
        assert node_law(rule_of("speculative"), p, q, k)[1] == pytest.approx(overlap)

        # K-SEQ: 1 - (1 - beta)^k at the r of the paper, found here on a fine grid.
        grid = np.linspace(1, k, 200_001)
        betas = np.minimum(q[:, None], p[:, None] / grid).sum(0)
        least = int(np.argmax(1 - (1 - betas) ** k <= grid * betas * (1 + 1e-12)))
        kept = node_law(rule_of("kseq"), p, q, k)[1]
        assert kept == pytest.approx(1 - (1 - betas[least]) ** k, abs=1e-4)
        assert kept >= (1 - 1 / np.e) * best_acceptance(p, drafts_of(q, "iid", k)) - 1e-4

        # Multi-round rejection: the chances that every round but the last failed, round by round.
        left, rejected = p, 1.0
        for _ in range(k):
            rejected *= 1 - np.minimum(left, q).sum()
            over = np.maximum(left - q, 0)
            left = over / over.sum()
        assert node_law(rule_of("multi_draft_iid"), p, q, k)[1] == pytest.approx(1 - rejected)


def test_spechub_keeps_what_its_plan_transports() -> None:
    """All but the hub take what their two pairs have; the hub takes of the rest what p has for it."""
    for p, q in random_pairs(4, 50):
        hub = int(np.argmax(q))
        mass = [q[x] + q[hub] * q[x] / (1 - q[hub]) for x in range(4)]
        others = sum(min(mass[x], p[x]) for x in range(4) if x != hub)
        kept = node_law(rule_of("spechub"), p, q, 2)[1]
        assert kept == pytest.approx(others + min(p[hub], 1 - others))
        # And with these pairs, no other rule keeps more.
        assert kept == pytest.approx(best_acceptance(p, drafts_of(q, "hub", 2)))


def test_without_replacement_more_is_kept_on_average() -> None:
    gains = [
        node_law(rule_of("multi_draft"), p, q, 2)[1] - node_law(rule_of("multi_draft_iid"), p, q, 2)[1]
        for p, q in random_pairs(4, 50)
    ]
    assert np.mean(gains) > 0.02


@given(pairs, st.integers(2, 5))
def test_the_factor_of_kseq_is_never_too_small(pair: tuple[np.ndarray, np.ndarray], k: int) -> None:
    p, q = pair
    r = factor(p, q, k)

    def excess(r: float) -> float:
        beta = np.minimum(q, p / r).sum()
        return float(1 - (1 - beta) ** k - r * beta)

    assert 1 <= r <= k and excess(r) <= 1e-12
    step = (k - 1) / 2**NUM_HALVINGS
    assert r - step < 1 or excess(r - 1.001 * step) >= -1e-12


def test_enumeration_itself() -> None:
    runs = list(over_coins(lambda toss: (toss(0.25), toss(0.5) if toss(1.0) else None)))
    assert sorted(runs) == [
        (0.125, (True, False)),
        (0.125, (True, True)),
        (0.375, (False, False)),
        (0.375, (False, True)),
    ]
    q = np.array([0.5, 0.3, 0.2, 0.0])
    for draw, k in itertools.product(("iid", "without_replacement", "hub"), (1, 2)):
        drafts = drafts_of(q, draw, k)  # type: ignore[arg-type]
        assert sum(drafts.values()) == pytest.approx(1.0)
        firsts = [sum(mass for xs, mass in drafts.items() if xs[0] == x) for x in range(4)]
        assert firsts == pytest.approx(q.tolist())
    assert drafts_of(q, "without_replacement", 2)[(0, 2)] == pytest.approx(0.5 * 0.2 / 0.5)
    assert drafts_of(q, "hub", 2)[(1, 0)] == pytest.approx(0.3)
    assert best_acceptance(q, {(3,): 1.0}) == 0.0
    assert best_acceptance(q, {(0, 1): 1.0}) == pytest.approx(0.8)
