"""Every rule that claims the target's law has it, by G-tests on the Markov table; wrong ones have not.

Outputs of three tokens after a first that is certain, one per seed, against the table's exact law: drafts of
up to two levels, and steps that begin where others ended. The file's G-tests together give a false alarm with
probability 1e-4 for seeds chosen at random; the seeds are fixed, so a pass stays a pass. What one step does
is enumerated exactly in `tests/rules`; here all of the loop takes part: noise, coins, and steps in a row.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest

from outpace.core import sampling as sampling_
from outpace.core.contracts import Drafter, Rule
from outpace.core.sampling import Sampling, fresh_seed
from outpace.core.steps import Ask, RowScores, ScoredCall, Verdict
from outpace.core.tree import TokenTree
from outpace.engine.generate import events, generate
from outpace.engine.request import Request
from outpace.rules import RULES, block
from outpace.rules.block import Block
from outpace.rules.multi_draft_iid import MultiDraftIid
from outpace.rules.speculative import Speculative
from outpace.rules.walk import Law, Toss
from outpace.targets.table import TableTarget
from outpace.trees import grow
from outpace.trees.chain import Chain
from tests.contract.rows import RULE_NAMES
from tests.fakes import Hostile, TableDraft, Wide, full_tree, whole
from tests.laws import FALSE_ALARM_RATE, g_test
from tests.lazy_table import LazyTable
from tests.rows import on, opened

VOCAB_SIZE, NUM_TOKENS = 4, 4
NUM_SEEDS = 1200  # of 1,000, wrong versions still have p-values of 1e-11 and, all but one, 1e-42 or less
PROMPT = [1, 2]
TARGET = LazyTable.random(vocab_size=VOCAB_SIZE, order=2, spread=1.0, seed=8)
TARGET.table[1, 2, :3] = -np.inf  # the first token is certain: its step has no drafts
DRAFT_TABLE = TableTarget.random(vocab_size=VOCAB_SIZE, order=2, spread=1.0, seed=9)

WARM, COOL, CUT = Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=3), Sampling(1.4, 0, 0.8)
SAMPLINGS = [Sampling(), WARM, COOL, CUT]


def unlikeliest_leaf_cut(tree: TokenTree) -> TokenTree:
    """Every tree loses a leaf, and which depends on what was drawn."""
    if tree.num_nodes == 1 or tree.logq is None:
        return tree
    logq, leaves = tree.logq, [path[-1] for path in tree.paths()]
    worst = min(leaves, key=lambda node: float(logq[node]))
    return tree.prune(set(range(tree.num_nodes)) - {worst})


DRAFTS: dict[str, Drafter] = {
    "every text": Hostile(lambda ask, rng: full_tree(ask, VOCAB_SIZE, 2)),
    "likely": Hostile(lambda ask, rng: TokenTree.chain(ask.root, [2, 0])),
    "random": Hostile(
        lambda ask, rng: TokenTree([ask.root, *rng.choices(range(4), k=5)], [-1, 0, 0, 1, 1, 2])
    ),
    "chain": TableDraft(DRAFT_TABLE, Chain(length=3)),
    "tree": TableDraft(DRAFT_TABLE, Wide(2, 2)),
    "pruned": TableDraft(DRAFT_TABLE, Wide(2, 2), unlikeliest_leaf_cut),
}
WITH_LAW = ["chain", "tree", "pruned"]
CLAIMING = [name for name in RULE_NAMES if RULES.create(name).exactness != "lossy"]
READS_LAW = [name for name in CLAIMING if RULES.create(name).needs_law]
READS_CHOICES = [name for name in CLAIMING if name not in READS_LAW]
OF_CHAINS = ["block", "speculative"]
CASES = [
    *itertools.product(READS_CHOICES, ["every text"], SAMPLINGS),
    *itertools.product(READS_LAW, WITH_LAW, [WARM]),
    *((name, "chain" if name in OF_CHAINS else "tree", one) for name in READS_LAW for one in (COOL, CUT)),
]
THRESHOLD = FALSE_ALARM_RATE / (len(CASES) + 1)
CAUGHT = 1e-12
"""A wrong version has to fail by a wide margin."""


def outputs(
    rule: Rule,
    drafter: Drafter,
    sampling: Sampling,
    *,
    target: TableTarget = TARGET,
    num_seeds: int = NUM_SEEDS,
    num_tokens: int = NUM_TOKENS,
) -> list[tuple[int, ...]]:
    """The outputs of so many seeds, without the pairing's consent."""
    requests = [Request(PROMPT, replace(sampling, seed=seed), num_tokens) for seed in range(num_seeds)]
    with mock.patch("outpace.engine.engine.check_pairing"):
        generations = whole(events(target, drafter, rule, requests))[1]
    return [tuple(one.token_ids) for one in generations]


def p_value(rule: Rule, drafter: Drafter, sampling: Sampling, num_seeds: int = NUM_SEEDS) -> float:
    """The G-test of the outputs of so many seeds against the exact law."""
    return g_test(
        outputs(rule, drafter, sampling, num_seeds=num_seeds), TARGET.law_of(PROMPT, NUM_TOKENS, sampling)
    )


@pytest.mark.parametrize(("name", "draft", "sampling"), CASES, ids=str)
def test_the_law_is_the_targets(name: str, draft: str, sampling: Sampling) -> None:
    assert p_value(RULES.create(name), DRAFTS[draft], sampling) > THRESHOLD


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("name", READS_CHOICES)
def test_who_reads_choices_writes_the_same_whatever_is_drafted(name: str, sampling: Sampling) -> None:
    """Token for token what has the law above."""
    written = [outputs(RULES.create(name), one, sampling, num_seeds=100) for one in DRAFTS.values()]
    assert all(one == written[0] for one in written)


@pytest.mark.parametrize("draft", ["random", "likely"])
@pytest.mark.parametrize("name", READS_LAW)
def test_trees_without_a_law_and_greedy_requests_are_judged_as_by_match(name: str, draft: str) -> None:
    """Token for token: for what has no law a rule in law is the rule of choices."""
    rule, match = RULES.create(name), RULES.create("match")
    for drafter, sampling in [(DRAFTS[draft], WARM), *((DRAFTS[one], Sampling()) for one in WITH_LAW)]:
        assert outputs(rule, drafter, sampling, num_seeds=50) == outputs(
            match, drafter, sampling, num_seeds=50
        )


def coin(sampling: Sampling, position: int, purpose: int) -> float:
    return random.Random(f"{sampling.seed} {position} {purpose}").random()


class NoiseReused:
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


class NoResidual(Speculative):
    """After a rejection, draws from p again instead of what p has left."""

    def keep(self, p: Law, q: Law, drafts: list[int], toss: Toss) -> int | Law:  # type: ignore[override]
        kept = super().keep(p, q, drafts, toss)
        return kept if isinstance(kept, int) else p


class WrongDraw(MultiDraftIid):
    """The formula of independent drafts for drafts without replacement."""

    draw = "without_replacement"


class ChoiceStandsIn(Speculative):
    """After a rejection, takes the target's own choice: its noise is fresh, its law is not the residual."""

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        verdict = super().judge(tree, scores, sampling, position)
        end = verdict.path[-1] if verdict.path else 0
        return Verdict(verdict.path, scores.choices[end], "distribution")


@pytest.mark.parametrize(
    ("rule", "draft", "sampling"),
    [
        (NoiseReused, "every text", WARM),
        (SoftmaxWhenGreedy, "likely", Sampling()),
        (NoResidual, "chain", WARM),
        (WrongDraw, "tree", WARM),
        (ChoiceStandsIn, "chain", WARM),
    ],
)
def test_a_wrong_rule_is_caught(rule: Callable[[], Rule], draft: str, sampling: Sampling) -> None:
    assert p_value(rule(), DRAFTS[draft], sampling) < CAUGHT


def test_a_block_without_its_cap_is_caught() -> None:
    with mock.patch.object(block, "chance", lambda p, q: p / q):
        assert p_value(Block(), DRAFTS["chain"], WARM) < 1e-9


def two_token_p_value(seed: int, num_seeds: int) -> float:
    """Block verification on a table of two tokens, where little is hidden: six tokens have 32 outcomes."""
    target, table = (
        LazyTable.random(vocab_size=2, order=1, spread=2.0, seed=seed + more) for more in (0, 50)
    )
    with mock.patch(f"{__name__}.PROMPT", [1, 0]):
        sample = outputs(
            Block(),
            TableDraft(table, Chain(length=3)),
            WARM,
            target=target,
            num_seeds=num_seeds,
            num_tokens=6,
        )
    return g_test(sample, target.law_of([1, 0], 6, WARM))


def test_coins_of_a_token_instead_of_a_step_are_caught() -> None:
    """A block looks at more coins than it keeps tokens; the next one must not see them again."""

    def by_token(seed: int, position: int) -> Toss:
        count = itertools.count(position)
        return lambda chance: sampling_.coin(seed, next(count), "accept") < chance

    assert two_token_p_value(5, 1500) > THRESHOLD
    with mock.patch.object(block, "tosses", by_token):
        assert two_token_p_value(5, 1500) < CAUGHT


def test_draft_noise_of_a_token_instead_of_a_step_is_caught() -> None:
    """The same for the noise of the drafts."""
    with mock.patch.object(
        grow, "fresh_seed", lambda seed, purpose, root, node: fresh_seed(seed, purpose, root + node)
    ):
        assert two_token_p_value(8, 4000) < 1e-9


def test_a_policy_that_prunes_by_tokens_only_sometimes_is_caught() -> None:
    """Why a policy that looks at drawn tokens must call all of its trees "point", pruned or not.

    Here a tree that is left as it was drawn tells that its first token is odd: the law that it comes with is
    no longer the one that it has. No rule can see that.
    """

    def no_even_first(tree: TokenTree) -> TokenTree:
        return tree if tree.num_nodes == 1 or tree.token_list[1] % 2 else tree.prune([])

    drafter = TableDraft(DRAFT_TABLE, Chain(length=3), no_even_first)
    assert p_value(Speculative(), drafter, WARM, num_seeds=2000) < 1e-9


@pytest.mark.parametrize("name", RULE_NAMES)
def test_verdicts_are_paths_and_pure(name: str) -> None:
    rule = RULES.create(name)
    rows, _ = opened(TARGET, [PROMPT])
    rng = random.Random(3)
    for seed, draft in itertools.product(range(30), ["random", "tree"]):
        ask = Ask(3, 2, Sampling(temperature=1.0, seed=seed), 9, 9, draw=rule.draw)
        tree = DRAFTS[draft].propose([rng if draft == "random" else [*PROMPT, 3]], [ask])[0]
        [scores] = ScoredCall(TARGET.score(on(rows, [tree])), [tree], [ask]).rows()
        verdict = rule.judge(tree, scores, ask.sampling, ask.position)
        for parent, child in itertools.pairwise([0, *verdict.path]):
            assert tree.parents[child] == parent
        assert 0 <= verdict.token < VOCAB_SIZE
        assert isinstance(verdict.token, int) and verdict.exactness == rule.exactness
        assert rule.judge(tree, scores, ask.sampling, ask.position) == verdict
    TARGET.free(rows)


@pytest.mark.parametrize("name", RULE_NAMES)
def test_exactness_is_declared(name: str) -> None:
    rule = RULES.create(name)
    assert rule.exactness in ("identical", "distribution", "lossy")
    generation = whole(generate(TARGET, DRAFTS["tree"], rule, Request(PROMPT, Sampling(), 2)))[1]
    assert generation.exactness == rule.exactness
