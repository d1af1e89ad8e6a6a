"""Token recycling against a log of all that was ever scored."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, RowScores, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.recycling import RANK_ODDS, Recycling, template
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import whole
from tests.strategies import trees

V = 6
TARGET = TableTarget.random(vocab_size=V)


class Tops:
    """Scores that know the likeliest tokens after each node, and nothing else."""

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        self.ids = np.array(ids)

    def top(self, nodes: Sequence[int], k: int) -> tuple[np.ndarray, None]:
        return self.ids[list(nodes), :k], None


def scored(tree: TokenTree, ids: Sequence[Sequence[int]], path: Sequence[int] = ()) -> Step:
    return Step(tree, cast("RowScores", Tops(ids)), Verdict(path, 0, "identical"))


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def paths_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens on the way to every node, the root's left out."""
    return [tuple(tree.token_list[i] for i in tree.path_to(node)[1:]) for node in range(tree.num_nodes)]


@given(
    st.lists(st.floats(0.02, 0.7), min_size=1, max_size=4, unique=True).map(
        lambda odds: sorted(odds, reverse=True)
    ),
    st.integers(1, 6),
)
def test_the_template_has_the_largest_products(odds: list[float], size: int) -> None:
    nodes = template(size, odds)
    paths: list[tuple[int, ...]] = [()]
    for parent, rank, level in nodes:
        paths.append((*paths[parent], rank))
        assert level == len(paths[-1])
    assert len(set(paths)) == size + 1
    # A path of more than `size` tokens is never among the best: its own beginnings are better.
    every = [
        math.prod(odds[r] for r in path)
        for length in range(1, size + 1)
        for path in itertools.product(range(len(odds)), repeat=length)
    ]
    best = sorted(every, reverse=True)[:size]
    np.testing.assert_allclose([math.prod(odds[r] for r in path) for path in paths[1:]], best)


def test_worked_example() -> None:
    """A template of five: products .36, .13, .10, .047 and a tie of .036, the older offer first."""
    assert [node[:2] for node in template(5, RANK_ODDS[:2])] == [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1)]
    drafter = Recycling(TARGET, size=5, k=2)
    state = drafter.start(Prompt.of([0]))
    [state] = drafter.observe([state], [scored(TokenTree.root(0), [[1, 2]])])
    [tree] = drafter.propose([state], [ask(0)])
    assert paths_of(tree) == [(), (1,), (2,)]
    [state] = drafter.observe([state], [scored(TokenTree.chain(0, [1]), [[1, 3], [4, 5]], [1])])
    [tree] = drafter.propose([state], [ask(0)])
    assert paths_of(tree) == [(), (1,), (1, 4), (3,), (1, 5)]
    assert tree.logq is not None and tree.draw == "point"
    first, second = math.log(RANK_ODDS[0]), math.log(RANK_ODDS[1])
    assert tree.logq[1:].tolist() == pytest.approx([first, first, second, second], rel=1e-6)
    assert drafter.successors(state, [3, 0]) == (0, [(1, RANK_ODDS[0]), (3, RANK_ODDS[1])])
    assert drafter.successors(drafter.start(Prompt.of([2, 5])), [2]) == (0, [(5, RANK_ODDS[0])])


class Log:
    """What the matrix should hold, by looking through all events from the end."""

    def __init__(self, k: int, before: Sequence[tuple[int, list[int]]] = ()) -> None:
        self.k = k
        self.events = list(before)

    def after(self, token: int) -> list[int]:
        return next((row for seen, row in reversed(self.events) if seen == token), [])

    def prompt(self, tokens: Sequence[int]) -> None:
        for a, b in itertools.pairwise(tokens):
            self.events.append((a, [b, *(x for x in self.after(a) if x != b)][: self.k]))

    def step(self, tree: TokenTree, ids: Sequence[Sequence[int]], path: Sequence[int]) -> None:
        for node in [*range(tree.num_nodes), 0, *path]:
            self.events.append((tree.token_list[node], list(ids[node][: self.k])))

    def draft(self, root: int, size: int, budget: int, depth: int) -> set[tuple[int, ...]]:
        ranks: list[tuple[int, ...]] = [()]
        for parent, rank, *_ in template(size, RANK_ODDS[: self.k])[:budget]:
            ranks.append((*ranks[parent], rank))
        found = set()
        for path in ranks:
            tokens = [root]
            for rank in path:
                row = self.after(tokens[-1])
                if rank >= len(row):
                    break
                tokens.append(row[rank])
            else:
                if len(path) <= depth:
                    found.add(tuple(tokens[1:]))
        return found


@st.composite
def steps(draw: st.DrawFn) -> tuple[TokenTree, list[list[int]], list[int]]:
    """A scored tree, the six likeliest tokens after each node, and a path down from the root."""
    tree = draw(trees(max_nodes=6, vocab_size=V))
    ids = draw(st.lists(st.permutations(range(V)), min_size=tree.num_nodes, max_size=tree.num_nodes))
    return tree, ids, tree.path_to(draw(st.integers(0, tree.num_nodes - 1)))[1:]


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, V - 1), min_size=1, max_size=8), st.lists(steps(), max_size=4)),
        min_size=1,
        max_size=3,
    ),
    st.integers(1, V),
    st.integers(1, 20),
    st.integers(0, 9),
    st.integers(0, 4),
)
def test_equals_a_search_through_all_that_was_scored(
    requests: list[tuple[list[int], list[tuple[TokenTree, list[list[int]], list[int]]]]],
    k: int,
    size: int,
    budget: int,
    depth: int,
) -> None:
    """Requests after one another: what the earlier ones left is there, what they learned last wins."""
    drafter = Recycling(TARGET, size=size, k=k)
    log = Log(k)
    for prompt, blocks in requests:
        state = drafter.start(Prompt.of(prompt))
        log.prompt(prompt)
        for tree, ids, path in blocks:
            [state] = drafter.observe([state], [scored(tree, ids, path)])
            log.step(tree, ids, path)
            for root in range(V):
                [draft] = drafter.propose([state], [ask(root, budget=budget, depth=depth)])
                found = paths_of(draft)
                assert len(set(found)) == len(found)
                assert set(found) == log.draft(root, size, budget, depth)
        drafter.stop(state)


def test_rows_side_by_side_do_not_see_one_another() -> None:
    drafter = Recycling(TARGET, k=2)
    one, two = drafter.start(Prompt.of([0, 1])), drafter.start(Prompt.of([2]))
    [one] = drafter.observe([one], [scored(TokenTree.root(1), [[4, 5]])])
    [tree] = drafter.propose([two], [ask(1)])
    assert tree.num_nodes == 1
    drafter.stop(one)
    three = drafter.start(Prompt.of([1, 3]))
    assert paths_of(drafter.propose([three], [ask(0)])[0])[1] == (1,)
    assert three[1] == [3, 4]


def test_a_row_that_was_never_observed_can_be_stopped() -> None:
    drafter = Recycling(TARGET)
    drafter.stop(drafter.start(Prompt.of([1])))
    assert drafter.propose([drafter.start(Prompt.of([1]))], [ask(1)])[0].num_nodes == 1


def test_more_successors_than_tokens() -> None:
    small = TableTarget.random(vocab_size=3)
    drafter = Recycling(small)
    assert drafter.k == drafter.traits.reads_top == 3


def test_a_second_request_is_drafted_from_what_the_first_has_left() -> None:
    """Greedy on a table of order 1, the successor of rank 0 is always right once it is known."""
    target = TableTarget.random(vocab_size=40, order=1, seed=2)
    drafter = Recycling(target, size=4)

    def run(draft: Recycling | NoDraft) -> Generation:
        result: Generation = whole(generate(target, draft, Match(), Request([7], max_tokens=33)))[1]
        return result

    plain, first, second = run(NoDraft()), run(drafter), run(drafter)
    assert first.token_ids == second.token_ids == plain.token_ids
    # A tree of four nodes is two levels deep along rank 0, so each call gives three of the 33 tokens.
    assert second.stats.target_calls == 10 and second.stats.first_tokens == 3
    assert second.stats.target_calls <= first.stats.target_calls < plain.stats.target_calls == 32


@pytest.mark.parametrize("options", [{"size": 0}, {"k": 0}, {"k": 9}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Recycling(TARGET, **options)
