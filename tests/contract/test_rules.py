"""Every rule that claims the target's law has it, by G-tests on the Markov table; three wrong rules have not.

Outputs of three tokens, one per seed, against the table's exact law. The file's G-tests together give a
false alarm with probability 1e-4 for seeds chosen at random; the seeds are fixed, so a pass stays a pass.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from outpace.core import sampling as sampling_
from outpace.core.contracts import Ask, Drafter, RowScores, Rule, ScoredCall, Verdict
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules import RULES
from outpace.targets.table import TableTarget
from tests.contract.rows import RULE_NAMES
from tests.fakes import Hostile, full_tree, whole
from tests.laws import FALSE_ALARM_RATE, g_test

VOCAB_SIZE, NUM_TOKENS, NUM_SEEDS = 4, 3, 3000
PROMPT = [1, 2]
TARGET = TableTarget.random(vocab_size=VOCAB_SIZE, order=2, spread=1.0, seed=8)

SAMPLINGS = [Sampling(), Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=3), Sampling(1.4, 0, 0.8)]
DRAFTS: dict[str, Drafter] = {
    "every text": Hostile(lambda ask, rng: full_tree(ask, VOCAB_SIZE, 2)),
    "likely": Hostile(lambda ask, rng: TokenTree.chain(ask.root, [2, 0])),
    "random": Hostile(
        lambda ask, rng: TokenTree([ask.root, *rng.choices(range(4), k=5)], [-1, 0, 0, 1, 1, 2])
    ),
}
CLAIMING = [name for name in RULE_NAMES if RULES.create(name).exactness != "lossy"]
CASES = [(sampling, draft) for sampling in SAMPLINGS for draft in DRAFTS]
THRESHOLD = FALSE_ALARM_RATE / (len(CLAIMING) * len(CASES))


def p_value(rule: Rule, drafter: Drafter, sampling: Sampling) -> float:
    """The G-test of the outputs of NUM_SEEDS seeds against the exact law."""
    outputs = []
    for seed in range(NUM_SEEDS):
        request = Request(PROMPT, replace(sampling, seed=seed), NUM_TOKENS)
        outputs.append(tuple(whole(generate(TARGET, drafter, rule, request))[1].token_ids))
    return g_test(outputs, TARGET.law_of(PROMPT, NUM_TOKENS, sampling))


@pytest.mark.parametrize(("sampling", "draft"), CASES, ids=str)
@pytest.mark.parametrize("name", CLAIMING)
def test_the_law_is_the_targets(name: str, sampling: Sampling, draft: str) -> None:
    assert p_value(RULES.create(name), DRAFTS[draft], sampling) > THRESHOLD


def coin(sampling: Sampling, position: int, purpose: int) -> float:
    return random.Random(f"{sampling.seed} {position} {purpose}").random()


class NoResidual:
    """Speculative sampling that, after a rejection, draws from p again instead of what p has left."""

    exactness = "distribution"
    draw = "iid"
    needs_law = False

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        path, node = [], 0
        for child in range(1, tree.num_nodes):
            law = scores.law(node, sampling)
            if coin(sampling, position, child) >= law[tree.token_list[child]]:
                break
            path.append(child)
            node = child
        return Verdict(path, scores.choices[node], "distribution")


class CoinsReused:
    """The match rule with one position's noise for a whole block."""

    exactness = "identical"
    draw = "point"
    needs_law = False

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        logits = scores.logits(range(tree.num_nodes))
        choices = sampling_.choose(logits, sampling, [position + 1] * tree.num_nodes)
        path, node = [], 0
        while (child := tree.child(node, choices[node])) > 0:
            path.append(child)
            node = child
        return Verdict(path, choices[node], "identical")


class SoftmaxWhenGreedy:
    """At temperature 0, draws from the softmax instead of taking the likeliest token."""

    exactness = "identical"
    draw = "point"
    needs_law = False

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        law = scores.law(0, Sampling(temperature=1.0, seed=sampling.seed))
        drawn = int(np.searchsorted(np.cumsum(law), coin(sampling, position, 0)))
        return Verdict([], min(drawn, len(law) - 1), "identical")


@pytest.mark.parametrize(
    ("rule", "draft", "sampling"),
    [
        (NoResidual, "likely", Sampling(temperature=1.0)),
        (CoinsReused, "every text", Sampling(temperature=1.0)),
        (SoftmaxWhenGreedy, "likely", Sampling()),
    ],
)
def test_a_wrong_rule_is_caught(rule: Callable[[], Rule], draft: str, sampling: Sampling) -> None:
    assert p_value(rule(), DRAFTS[draft], sampling) < THRESHOLD


@pytest.mark.parametrize("name", RULE_NAMES)
def test_verdicts_are_paths_and_pure(name: str) -> None:
    rule = RULES.create(name)
    rows, _ = TARGET.prefill([PROMPT])
    rng = random.Random(3)
    for seed in range(50):
        ask = Ask(3, 2, Sampling(temperature=1.0, seed=seed), 9, 9)
        tree = DRAFTS["random"].propose([rng], [ask])[0]
        [scores] = ScoredCall(TARGET.score(rows, [tree]), [tree], [ask]).rows()
        verdict = rule.judge(tree, scores, ask.sampling, ask.position)
        assert verdict == rule.judge(tree, scores, ask.sampling, ask.position)
        line = [0, *verdict.path]
        assert all(tree.parents[node] == parent for parent, node in itertools.pairwise(line))
        assert 0 <= verdict.token < VOCAB_SIZE and verdict.exactness == rule.exactness
    TARGET.free(rows)


@pytest.mark.parametrize("name", RULE_NAMES)
def test_exactness_is_declared(name: str) -> None:
    rule = RULES.create(name)
    assert rule.exactness in ("identical", "distribution", "lossy")
    generation = whole(generate(TARGET, NoDraft(), rule, Request(PROMPT, Sampling(), 2)))[1]
    assert generation.exactness == rule.exactness
