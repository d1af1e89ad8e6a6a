"""Trees that learn: the rule written out, what each verdict teaches, and drafts before and after."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.contracts import Drafter
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.drafters.forced import with_forced
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.mix import Mix
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, generate
from outpace.engine.request import Generation, Request
from outpace.pricing.costs import straight
from outpace.pricing.survival import Survival, logit
from outpace.pricing.worth import AtLeast, Priced
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from outpace.trees import TREES
from outpace.trees.c2t import C2T
from outpace.trees.survival import SurvivalTree, survival, trained
from tests.fakes import whole
from tests.trees.growing import ROOT, Paths, grow, softmax
from tests.trees.test_c2t import classifier
from tests.trees.test_dynamic import children, nodes_of, weight

VOCAB_SIZE = 5
Path_ = tuple[int, ...]


class Noted(Survival):
    """An estimate that says what the prior says, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(3)
        self.told: list[tuple[Any, Any, Any]] = []

    def learn(self, prior: Any, features: Any, kept: Any) -> None:
        self.told.append((prior, features, kept))


def policy(beta: float = 0.1, **options: Any) -> SurvivalTree:
    return SurvivalTree(AtLeast(beta), **options)


def looked_at(paths: Paths, beta: float, k: int, depth: int) -> list[tuple[Path_, bool]]:
    """All candidates of a neutral policy that has learnt nothing, and whether each is hung."""
    found: list[tuple[Path_, bool]] = []
    level: set[Path_] = {()}
    for _ in range(depth):
        below = set[Path_]().union(*(children(paths, path, k) for path in level))
        first = sorted(below, key=lambda path: -weight(paths, path))[:k]
        level = {path for path in first if weight(paths, path) >= beta}
        found += [(path, path in level) for path in first]
        if not level:
            break
    return found


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.floats(0.01, 0.5), st.integers(1, 5), st.integers(1, 5))
def test_before_it_has_learnt_it_takes_the_drafters_word(seed: int, beta: float, k: int, depth: int) -> None:
    paths = Paths(VOCAB_SIZE, seed=seed)
    tree = grow(policy(beta, k=k, depth=depth), paths)
    assert nodes_of(tree) == {path for path, hung in looked_at(paths, beta, k, depth) if hung}
    assert tree.draw == "point"


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_with_a_classifier_it_begins_as_c2t(seed: int, beta: float) -> None:
    paths, one = Paths(VOCAB_SIZE, seed=seed), classifier(seed)
    ours = grow(SurvivalTree(AtLeast(beta), trained(one), k=3, depth=4), paths)
    assert nodes_of(ours) == nodes_of(grow(C2T(one, beta=beta, k=3, depth=4), paths))


@settings(max_examples=50)
@given(
    st.integers(0, 10**6),
    st.floats(0.01, 0.3),
    st.integers(0, 20),
    st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=6),
)
def test_every_candidate_below_a_scored_node_teaches(
    seed: int, beta: float, budget: int, tokens: list[int]
) -> None:
    """Hung or not. What it was, and whether the text went through it."""
    paths, learning = Paths(VOCAB_SIZE, seed=seed), policy(beta, k=4, depth=4)
    learning.estimate = noted = Noted()
    tree = grow(learning, paths, budget=budget)
    assert tree.learn is not None and not noted.told
    tree.learn(tree, tokens)
    scored = {(), *nodes_of(tree)}
    expected = [path for path, _ in looked_at(paths, beta, 4, 4) if path[:-1] in scored] if budget else []
    rows = []
    for path in expected:
        law = softmax(paths.after([ROOT, *path[:-1]]))
        spread = -sum(float(p) * math.log(p) for p in law)
        joint = logit(np.array([weight(paths, path)]))[0]
        kept = tuple(tokens[: len(path)]) == path
        rows.append((joint, math.log(law[path[-1]]) / 3, spread / 3, math.log(len(path)), kept))
    told = [
        (*row, kept)
        for prior, read, verdicts in noted.told
        for row, kept in zip(np.column_stack([prior, read]).tolist(), verdicts.tolist(), strict=True)
    ]
    assert sorted(told) == [pytest.approx(row, abs=1e-4) for row in sorted(rows)]


def test_nodes_among_others_are_found_by_their_paths() -> None:
    """What was scored lacks some of the tree and has others, in another order."""
    paths, learning = Paths(VOCAB_SIZE, seed=3), policy(0.0, k=2, depth=2)
    learning.estimate = noted = Noted()
    tree = grow(learning, paths)
    firsts = [tree.token_list[node] for node in tree.children(0)]
    other = next(token for token in range(VOCAB_SIZE) if token not in firsts)
    scored = TokenTree([ROOT, other, firsts[1], 0], [-1, 0, 0, 1])
    assert tree.learn is not None
    tree.learn(scored, [firsts[1], other])
    [(_, _, kept)] = noted.told
    below = [
        node for node in range(1, tree.num_nodes) if tree.shape.parent_list[node] != tree.child(0, firsts[0])
    ]
    assert len(kept) == len(below) and kept.sum() == 1 + any(
        tree.token_list[node] == other for node in tree.children(tree.child(0, firsts[1]))
    )


def test_what_has_been_cut_from_a_tree_does_not_matter() -> None:
    """The loop's cuts keep whom to tell; a tree of another root tells nobody."""
    tree = grow(policy(0.0, k=3, depth=3), Paths(VOCAB_SIZE, seed=1))
    cut = tree.fit(ROOT, vocab_size=VOCAB_SIZE, budget=2, depth=1)
    assert cut.num_nodes < tree.num_nodes and cut.learn == tree.learn
    assert tree.prune([1]).learn == tree.learn
    assert tree.fit(ROOT + 1, vocab_size=VOCAB_SIZE, budget=9, depth=9).learn is None
    assert TokenTree.merge(tree, tree).learn is None and TokenTree.root(ROOT).learn is None


def tables(sharper: float) -> tuple[TableTarget, TableTarget]:
    """A target, and a draft model that is often wrong and so many times as sure of itself."""
    table = TableTarget.random(vocab_size=16, order=2, seed=3).table
    noise = np.random.default_rng(1).normal(scale=2.0, size=table.shape)
    return TableTarget(table), TableTarget((sharper * (table + noise)).astype(table.dtype))


def write(
    drafter: Drafter, target: TableTarget, sampling: Sampling, num: int = 300, first: int = 1
) -> Generation:
    request = Request([first, 2, 3], sampling, num)
    made: Generation = whole(generate(target, drafter, Match(), request))[1]
    return made


class Deaf(Survival):
    """Learning is switched off."""

    def learn(self, prior: Any, features: Any, kept: Any) -> None:
        pass


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_it_learns_how_far_a_drafter_is_to_be_trusted(temperature: float) -> None:
    """One that is too sure of itself: fewer nodes for each token that is kept, and the same text."""
    texts, stats = [], []
    for estimate in (Deaf(3), Survival(3)):
        target, draft = tables(sharper=3.0)
        learning = policy(0.3, k=4, depth=6)
        learning.estimate = estimate
        drafter = SmallModel.of(draft, tree=learning)
        for seed in range(3):  # what is learnt in a text serves the next
            made = write(drafter, target, Sampling(temperature=temperature, seed=seed), first=1 + seed)
        texts.append(made.token_ids)
        stats.append(made.stats)
    deaf, learnt = stats
    assert texts[0] == texts[1]
    assert learnt.num_drafted / learnt.num_accepted < 0.8 * deaf.num_drafted / deaf.num_accepted
    assert learnt.mean_accepted_length > 0.6 * deaf.mean_accepted_length


def test_a_timid_drafter_comes_to_draft_more() -> None:
    """Nothing is hung at first, and still it learns: the candidates are known."""
    target, _ = tables(sharper=1.0)
    drafter = SmallModel.of(TableTarget(0.05 * target.table), tree=policy(0.5, k=1, depth=6))
    first, last = (write(drafter, target, Sampling(), num) for num in (3, 400))
    assert first.stats.num_drafted == 0
    assert last.stats.mean_accepted_length > 3


def test_rows_that_learn_together_write_what_each_writes_alone() -> None:
    """Sampled: drafts of one depend on verdicts of all, texts do not."""
    target, draft = tables(sharper=3.0)
    requests = [Request([1 + row, 2, 3], Sampling(temperature=1.0, seed=row), 60) for row in range(3)]
    learning = policy(0.1, k=3, depth=4)
    learning.estimate = noted = Noted()
    drafter = SmallModel.of(draft, tree=learning)
    together = whole(events(target, drafter, Match(), requests))[1]
    alone = [whole(generate(target, NoDraft(), Match(), request))[1] for request in requests]
    assert [one.token_ids for one in together] == [one.token_ids for one in alone]
    assert len(noted.told) >= sum(one.stats.target_calls - 2 for one in together)


def test_it_is_told_through_others() -> None:
    """Behind forced tokens and within a mixture, whose tree is another one."""
    for wrapped in (with_forced, lambda one: Mix([one, NGram()], straight(0.01))):
        target, draft = tables(sharper=3.0)
        learning = policy(0.05, k=3, depth=4)
        learning.estimate = noted = Noted()
        made = write(wrapped(SmallModel.of(draft, tree=learning)), target, Sampling(), 40)
        assert len(noted.told) >= made.stats.target_calls - 2
        kept = sum(int(verdicts.sum()) for _, _, verdicts in noted.told)
        assert 0 < kept < sum(len(verdicts) for _, _, verdicts in noted.told)


def test_a_price_ends_levels_that_are_not_worth_their_draft() -> None:
    paths = Paths(VOCAB_SIZE, seed=2)
    grown = [
        grow(SurvivalTree(Priced(lambda: straight(0.0), cost, 60), k=3, depth=5), paths).shape.height
        for cost in (0.0, 0.2, 1.0)
    ]
    assert grown[0] == 5 > grown[1] > grown[2] == 0
    heights = [
        grow(SurvivalTree(Priced(partial(straight, per), 0.0, 60), k=3, depth=5), paths).num_nodes
        for per in (0.01, 0.1, 0.9)
    ]
    assert heights[0] > heights[1] > heights[2]


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.01, 0.3), st.floats(0.0, 0.4))
def test_a_priced_tree_as_it_is_written(seed: int, per_node: float, draft_cost: float) -> None:
    """Nodes and levels have to bring more than they cost, with all that has been taken before them."""
    paths, nodes, expected = Paths(VOCAB_SIZE, seed=seed), 1, 1.0
    wanted, gained = set[Path_](), 1.0
    level: set[Path_] = {()}
    for _ in range(4):
        if gained <= draft_cost * expected:
            break
        below = set[Path_]().union(*(children(paths, path, 3) for path in level))
        first = sorted(below, key=lambda path: -weight(paths, path))[:3]
        level, gained = set(), 0.0
        for path in first:
            if weight(paths, path) <= expected * per_node / (1 + per_node * (nodes - 1)):
                break
            level.add(path)
            nodes, expected = nodes + 1, expected + weight(paths, path)
            gained += weight(paths, path)
        wanted |= level
        if not level:
            break
    worth = Priced(lambda: straight(per_node), draft_cost, 60)
    assert nodes_of(grow(SurvivalTree(worth, k=3, depth=4), paths)) == wanted


def test_options() -> None:
    made = TREES.create("survival:beta=0.25,k=3,depth=2")
    assert made.worth == AtLeast(0.25) and (made.width, made.depth) == (3, 2)
    auto = TREES.create("survival:beta=auto,draft_cost=0.5", costs=lambda: straight(0.1))
    assert isinstance(auto.worth, Priced)
    assert survival(prior="c2t").prior is not survival().prior


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("beta=1.5", "survival has beta='1.5', accepted are numbers from 0 to 1, auto"),
        ("beta=nan", "survival has beta='nan', accepted are numbers from 0 to 1, auto"),
        ("beta=much", "survival has beta='much', accepted are numbers from 0 to 1, auto"),
        ("beta=auto", "survival has beta=auto and no costs of a target, accepted are numbers from 0 to 1"),
        ("k=0", "survival has k=0, accepted are whole numbers from 1 to 65536"),
        ("beta=auto,depth=0", "survival has depth=0, accepted are whole numbers from 1 to 65536"),
        ("draft_cost=-1", "survival has draft_cost=-1.0, accepted are numbers >= 0"),
        ("prior=nowhere", "nowhere"),
    ],
)
def test_what_is_wrong_with_options_is_one_line(spec: str, said: str) -> None:
    costs = {"costs": lambda: straight(0.1)} if "depth" in spec else {}
    with pytest.raises(OutpaceError) as error:
        TREES.create(f"survival:{spec}", **costs)
    assert said in str(error.value) and "\n" not in str(error.value)
