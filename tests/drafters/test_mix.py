"""The mixture: weights follow success, trees follow the price of a call, sources of both kinds meet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, StepTimes, Verdict
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters import DRAFTERS
from outpace.drafters.mix import Mix
from outpace.drafters.mix_weights import Weights
from outpace.pricing.costs import CallCosts, LiveCosts, straight

SCORES: Any = None  # no source here reads any


class Source:
    """A source without a state."""

    traits = Traits(branches=True)

    def start(self, prompt: Prompt) -> None:
        return None

    def propose(self, states: Sequence[None], asks: Sequence[Ask]) -> list[TokenTree]:
        raise AssertionError("nobody asks for its trees")

    def observe(self, states: Sequence[None], steps: Sequence[Step]) -> list[None]:
        return list(states)

    def stop(self, state: None) -> None:
        pass


class Fixed(Source):
    """A source that expects the same after any text."""

    def __init__(self, *expected: tuple[int, float], level: int = 0) -> None:
        self.expected = expected
        self.level = level

    def successors(self, state: None, text: Sequence[int]) -> tuple[int, Sequence[tuple[int, float]]]:
        return self.level, self.expected


class Proposing(Source):
    """A source that proposes a tree."""

    def __init__(self, tree: TokenTree) -> None:
        self.tree = tree

    def propose(self, states: Sequence[None], asks: Sequence[Ask]) -> list[TokenTree]:
        return [self.tree for _ in asks]


def mix(*sources: Any, costs: CallCosts | None = None, **options: Any) -> Mix:
    return Mix(sources, costs or straight(0.05), **options)


def ask(*, budget: int = 63, depth: int = 63) -> Ask:
    return Ask(7, 9, Sampling(), budget, depth)


def paths(tree: TokenTree) -> set[tuple[int, ...]]:
    return {tuple(tree.token_list[node] for node in tree.path_to(n)[1:]) for n in range(1, tree.num_nodes)}


def feed(drafter: Mix, state: Any, *tokens: int) -> Any:
    """One step per token: nothing of what is proposed is kept."""
    for token in tokens:
        [tree] = drafter.propose([state], [ask()])
        [state] = drafter.observe([state], [Step(tree, SCORES, Verdict([], token, "identical"))])
    return state


def test_the_source_that_is_right_gets_the_weight() -> None:
    drafter = mix(Fixed((1, 0.5), (2, 0.5)), Fixed((3, 1.0)))
    state = feed(drafter, drafter.start(Prompt.of([7])), *[1, 2] * 40)
    right, wrong = state.weights.of((0, 0, 0b11))
    assert right > 0.9 and wrong < 0.05
    [tree] = drafter.propose([state], [ask(depth=1)])
    assert paths(tree) == {(1,), (2,)}


def test_weights_are_shares_of_one_count_by_expectation() -> None:
    """Two sources that both know the token share it by w_s P_s, computed by hand."""
    weights = Weights(2)
    weights.learn((3, 0, 3), [[(5, 0.8)], [(5, 0.2), (6, 0.8)]], 5)
    counts, overall = [0.8, 0.2, 0.0], [1.08, 1.02, 1.0]
    expected = [(c + 8 * a / sum(overall)) / 9 for c, a in zip(counts, overall, strict=True)]
    assert weights.of((3, 0, 3)) == pytest.approx(expected[:2])
    assert weights.of((4, 0, 3)) == pytest.approx([one / sum(overall) for one in overall[:2]])


def test_tokens_that_nobody_knew_make_drafts_short() -> None:
    drafter = mix(Fixed((1, 1.0)), costs=straight(0.2))
    state = drafter.start(Prompt.of([7]))
    [before] = drafter.propose([state], [ask()])
    state = feed(drafter, state, *[9] * 60)
    [after] = drafter.propose([state], [ask()])
    assert before.num_nodes > 1 and after.num_nodes == 1


@pytest.mark.parametrize(("price", "low", "high"), [(0.01, 6, 63), (0.3, 2, 5), (5.0, 1, 1)])
def test_trees_are_as_large_as_pays(price: float, low: int, high: int) -> None:
    drafter = mix(Fixed((1, 0.9)), costs=straight(price), size=60, depth=60)
    state = feed(drafter, drafter.start(Prompt.of([7])), *[1] * 30)
    [tree] = drafter.propose([state], [ask()])
    assert low <= tree.num_nodes <= high


def test_the_size_is_the_best_of_all_sizes() -> None:
    """Expected tokens over time, for the chosen tree and for every other prefix of the likeliest paths."""
    drafter = mix(Fixed((1, 0.6), (2, 0.3)), costs=straight(0.15), size=40, depth=40)
    state = feed(drafter, drafter.start(Prompt.of([7])), *[1, 1, 2] * 20)
    [tree] = drafter.propose([state], [ask()])
    p = sorted(_path_probabilities(state.weights, depth=12), reverse=True)
    curve = straight(0.15).curve(42, 9)
    ratios = [(1 + sum(p[:n])) / curve[n] for n in range(40)]
    assert tree.num_nodes - 1 == max(range(40), key=ratios.__getitem__)


def _path_probabilities(weights: Weights, *, depth: int) -> list[float]:
    """Of all paths of tokens 1 (0.6) and 2 (0.3), each level under the weight of its depth."""
    level, every = [1.0], []
    for d in range(depth):
        w = weights.of((0, min(d, 2), 1))[0]
        level = [p * w * q for p in level for q in (0.6, 0.3)]
        every += level
    return every


def test_a_proposed_tree_and_successors_meet_in_one_path() -> None:
    """Below the end of the proposed chain the other source goes on."""
    chain = TokenTree.chain(7, [4, 5])
    drafter = mix(Proposing(chain), Fixed((8, 0.9)), costs=straight(0.001))
    [tree] = drafter.propose([drafter.start(Prompt.of([7]))], [ask()])
    assert {(4,), (4, 5), (8,), (4, 8), (4, 5, 8)} <= paths(tree) and (5,) not in paths(tree)


def test_probabilities_of_a_proposed_tree_count() -> None:
    sure = TokenTree([7, 4, 5], [-1, 0, 0], logq=[0.0, -0.05, -3.0])
    drafter = mix(Proposing(sure), costs=straight(0.1))
    state = feed(drafter, drafter.start(Prompt.of([7])), *[4] * 20)
    [tree] = drafter.propose([state], [ask()])
    assert paths(tree) == {(4,)}


def test_what_a_row_learns_serves_later_rows() -> None:
    drafter = mix(Fixed((1, 1.0)), Fixed((3, 1.0)))
    first = feed(drafter, drafter.start(Prompt.of([7])), *[3] * 30)
    beside = drafter.start(Prompt.of([7]))
    assert beside.weights.of((0, 0, 0b11))[0] == beside.weights.of((0, 0, 0b11))[1]
    drafter.stop(first)
    later = drafter.start(Prompt.of([7]))
    assert later.weights.of((0, 0, 0b11)) == pytest.approx(first.weights.of((0, 0, 0b11)))
    drafter.stop(beside)
    assert drafter.start(Prompt.of([7])).weights.of((0, 0, 0b11)) == pytest.approx(
        first.weights.of((0, 0, 0b11))
    )


def test_matches_of_different_length_have_weights_of_their_own() -> None:
    long = Fixed((1, 1.0), level=20)
    drafter = mix(long)
    state = feed(drafter, drafter.start(Prompt.of([7])), *[1] * 20)
    assert state.weights.of((9, 0, 1))[0] > 0.85 > 0.8 > state.weights.of((1, 0, 1))[0]


@pytest.mark.parametrize("options", [{"size": 0}, {"depth": 0}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match="accepted are whole numbers from 1 to 65536"):
        mix(Fixed(), **options)


def test_an_unknown_source_names_those_that_exist() -> None:
    with pytest.raises(OutpaceError, match=r"unknown drafter 'nonsense', accepted are .*ngram"):
        DRAFTERS.create("mix:drafts=ngram+nonsense", costs=lambda: straight(0.1))


def test_trees_follow_what_calls_take_now() -> None:
    """Measured: nodes cost next to nothing. Then calls of many nodes take as long as that many calls."""
    costs = LiveCosts([1, 24], [1], [[1.0, 1.1]])
    drafter = mix(Fixed((1, 0.9)), costs=costs)
    state = drafter.start(Prompt.of([7]))
    sizes = []
    for _ in range(300):
        [tree] = drafter.propose([state], [ask()])
        sizes.append(tree.num_nodes)
        times = StepTimes(draft_s=0.0, score_s=0.75 * tree.num_nodes, keep_s=0.25 * tree.num_nodes)
        [state] = drafter.observe([state], [Step(tree, SCORES, Verdict([], 1, "identical"), times)])
    assert max(sizes[:40]) >= 5 and max(sizes[-20:]) <= 3


def test_rows_share_what_a_call_costs() -> None:
    """A node of each of 16 rows costs what 16 nodes cost: the more rows, the smaller their trees."""
    sizes = {}
    for rows in (1, 4, 16):
        drafter = mix(Fixed((1, 0.7), (2, 0.2)), costs=straight(0.05))
        states = [drafter.start(Prompt.of([7])) for _ in range(rows)]
        trees = drafter.propose(states, [ask()] * rows)
        assert len({tree.num_nodes for tree in trees}) == 1
        sizes[rows] = trees[0].num_nodes
    assert sizes[1] > sizes[4] > sizes[16] >= 1


class ByDepth(Source):
    """A source like proposal heads, whose opinion depends on the depth alone."""

    def __init__(self, *by_depth: Sequence[tuple[int, float]]) -> None:
        self.by_depth = by_depth

    def expected_by_depth(self, state: None, ask: Ask) -> Sequence[Sequence[tuple[int, float]]]:
        return self.by_depth[: ask.depth]


def test_an_opinion_by_depth_holds_below_every_node() -> None:
    """Below another source's token too, where a tree of its own would have no node; and no deeper."""
    drafter = mix(Fixed((1, 0.9)), ByDepth([(2, 0.9)], [(3, 0.9)]), costs=straight(0.001))
    tree = drafter.propose([drafter.start(Prompt.of([7]))], [ask(depth=3)])[0]
    assert {(1, 3), (2, 3), (1, 1), (2, 1), (1, 1, 1)} <= paths(tree)
    assert {path[2:] for path in paths(tree) if len(path) == 3} == {(1,)}


class ByPath(Source):
    """A source that expects something else after each path: the sum of its tokens, and one more."""

    def __init__(self, p: float = 0.9) -> None:
        self.p = p
        self.begun = 0
        self.asked: list[tuple[int, ...]] = []

    def expected_by_path(
        self, state: None, ask: Ask
    ) -> Callable[[Sequence[int]], Sequence[tuple[int, float]]]:
        self.begun += 1

        def after(path: Sequence[int]) -> Sequence[tuple[int, float]]:
            self.asked.append(tuple(path))
            return [(sum(path) + ask.root, self.p)] if len(path) < 3 else ()

        return after


def test_an_opinion_by_path_knows_the_tokens_before() -> None:
    """Other sources' tokens too; a node's path is asked for after its parent's."""
    source = ByPath()
    drafter = mix(Fixed((1, 0.9)), source, costs=straight(0.001))
    tree = drafter.propose([drafter.start(Prompt.of([9, 9, 7]))], [ask(depth=4)])[0]
    assert {(7,), (1, 8), (7, 14), (1, 1, 9), (1, 8, 16), (7, 1, 15)} <= paths(tree)
    assert source.asked[0] == () and len(set(source.asked)) == len(source.asked)
    assert all(path[:-1] in source.asked[:at] for at, path in enumerate(source.asked) if path)


def test_what_runs_first_does_not_run_where_others_are_sure() -> None:
    """Once copies have been right often enough, heads rest; as soon as these fail, they are asked again."""
    copies, heads = Fixed((1, 1.0), level=4), ByPath(0.5)
    drafter = mix(copies, heads, costs=straight(0.05))
    state = drafter.start(Prompt.of([7]))
    asked = []
    for token in [1] * 60 + [5] * 60:
        heads.asked.clear()
        [tree] = drafter.propose([state], [ask()])
        asked.append(bool(heads.asked))
        assert tree.num_nodes > 1
        [state] = drafter.observe([state], [Step(tree, SCORES, Verdict([], token, "identical"))])
    assert asked[0] and not any(asked[50:60]), "copies are sure"
    assert all(asked[100:]), "copies are wrong"
    alone = mix(Fixed((1, 1.0), level=4), costs=straight(0.05))
    assert alone.propose([alone.start(Prompt.of([7]))], [ask()])[0].num_nodes > 1


@pytest.mark.parametrize(("price", "depth", "runs"), [(0.9, 5, True), (1.1, 5, False), (0.9, 0, False)])
def test_what_runs_first_does_not_run_where_nothing_may_be_drafted(
    price: float, depth: int, runs: bool
) -> None:
    """A node that costs as much as a call is never worth it; nor may it be too deep."""
    heads = ByPath()
    drafter = mix(heads, costs=straight(price))
    drafter.propose([drafter.start(Prompt.of([7]))], [ask(depth=depth)])
    assert (heads.begun == 1) is runs and bool(heads.asked) is runs


def test_a_path_is_whole_however_deep_the_tree() -> None:
    source = ByPath(0.001)
    drafter = mix(Fixed((1, 0.99)), source, costs=straight(0.0), size=60, depth=20)
    tree = drafter.propose([drafter.start(Prompt.of([3]))], [ask(depth=20, budget=60)])[0]
    assert tree.shape.height > 13, "deeper than sources see"
    assert all(len(path) == 0 or path[:-1] in source.asked for path in source.asked)


def test_no_more_sources_than_there_are_weights_for() -> None:
    for count in (9, 0):
        with pytest.raises(OutpaceError, match=f"mix has {count} drafts, accepted are 1 to 8"):
            mix(*[Fixed((1, 0.5))] * count)
    with pytest.raises(OutpaceError, match="mix has 9 drafts, accepted are 1 to 8"):
        DRAFTERS.create("mix:drafts=" + "+".join(["ngram"] * 9), costs=lambda: straight(0.1))


def test_a_tree_says_who_expected_what() -> None:
    """Also when the row has gone on since."""
    sources = Fixed((1, 0.6), (2, 0.4)), Fixed((2, 0.7)), Proposing(TokenTree.chain(7, [3, 4]))
    drafter = mix(*sources, costs=straight(0.001))
    drafter.names = ["a", "b", "c"]
    state = drafter.start(Prompt.of([7]))
    [tree] = drafter.propose([state], [ask(depth=2)])
    feed(drafter, state, 1)
    assert tree.sources is not None
    told = dict(zip(range(tree.num_nodes), tree.sources(), strict=True))
    assert told.pop(0) == ""
    for node, said in told.items():
        assert said == {1: "a", 2: "a+b", 3: "c", 4: "c"}[tree.token_list[node]]
    assert set(told.values()) == {"a", "a+b", "c"}
    assert tree.prune([1]).sources is None is TokenTree.root(7).sources


def test_sources_have_the_names_that_users_write() -> None:
    made = DRAFTERS.create("mix:drafts=[ngram:min_n=1]+suffix", costs=lambda: straight(0.1))
    assert made.names == ["ngram", "suffix"]
