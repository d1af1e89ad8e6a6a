"""Forced tokens come first, and nothing else changes for an inner drafter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from outpace.core.call import Prompt
from outpace.core.edits import Edit
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.forced import Forced, with_forced
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.mix import Mix
from outpace.drafters.none import NoDraft

VOCAB = 24


class Rules:
    """After every path some tokens are allowed, after the root one chain alone."""

    def __init__(self, chain: Sequence[int] = (), banned: Sequence[int] = ()) -> None:
        self.chain = list(chain)
        self.banned = list(banned)

    def __call__(self, path: Sequence[int]) -> Edit | None:
        there = len(path)
        if list(path) != self.chain[:there]:
            return None if there < len(self.chain) else self._without_banned()
        if there < len(self.chain):
            return Edit(allowed=np.arange(VOCAB) == self.chain[there])
        return self._without_banned()

    def _without_banned(self) -> Edit:
        return Edit(allowed=~np.isin(np.arange(VOCAB), self.banned))

    def forced(self, path: Sequence[int]) -> Sequence[int]:
        there = len(path)
        return self.chain[there:] if list(path) == self.chain[:there] else []


class Seen:
    """Proposes one tree on every root, and notes what it is asked."""

    def __init__(self, tokens: list[int], parents: list[int], *, goes_on: bool = False) -> None:
        self.traits = Traits(branches=True, goes_on=goes_on, paced="always")
        self.tree = tokens, parents
        self.asked: list[list[int]] = []
        self.stopped = 0

    def start(self, prompt: Prompt) -> list[int]:
        return list(prompt)

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        self.asked.append([ask.depth for ask in asks])
        tokens, parents = self.tree
        return [
            TokenTree([ask.root, *tokens[1:]], parents) if ask.depth else TokenTree.root(ask.root)
            for ask in asks
        ]

    def observe(self, states: Sequence[Any], steps: Sequence[Step]) -> list[Any]:
        return [[*state, "seen"] for state in states]

    def stop(self, state: Any) -> None:
        self.stopped += 1


def ask(edit: Any = None, *, root: int = 7, budget: int = 16, depth: int = 12) -> Ask:
    return Ask(root, 5, Sampling(), budget, depth, edit)


def test_without_a_grammar_trees_are_the_inner_ones() -> None:
    inner = Seen([7, 1, 2, 3], [-1, 0, 0, 1])
    forced = Forced(inner)
    assert forced.traits == inner.traits
    plain = lambda path: Edit(ids=[1], added=[-np.inf])  # noqa: E731
    for one in (ask(), ask(plain)):
        (tree,) = forced.propose([None], [one])
        assert (tree.token_list, tree.shape.parent_list) == ([7, 1, 2, 3], [-1, 0, 0, 1])
    assert inner.asked == [[12], [12]]
    state = forced.start(Prompt([1, 2]))
    assert state == [1, 2] and forced.observe([state], []) == [[1, 2, "seen"]]
    forced.stop(state)
    assert inner.stopped == 1


def test_a_chain_comes_first_and_an_inner_drafter_rests_in_its_row_alone() -> None:
    inner = Seen([7, 1, 2], [-1, 0, 1])
    trees = Forced(inner).propose([None, None], [ask(Rules([4, 5, 6])), ask()])
    assert [tree.token_list for tree in trees] == [[7, 4, 5, 6], [7, 1, 2]]
    assert inner.asked == [[0, 12]]
    (tree,) = Forced(inner).propose([None], [ask(Rules([4, 5, 6]))])
    assert tree.token_list == [7, 4, 5, 6] and len(inner.asked) == 1, "nobody is asked for nothing"


@pytest.mark.parametrize(("budget", "depth"), [(2, 12), (16, 2)])
def test_a_chain_is_cut_at_what_may_be_drafted(budget: int, depth: int) -> None:
    one = ask(Rules([4, 5, 6]), budget=budget, depth=depth)
    assert list(one.known) == [4, 5]
    assert Forced(NoDraft()).propose([None], [one])[0].token_list == [7, 4, 5]
    assert not ask(Rules([4]), depth=0).known and not ask(Rules([4]), budget=0).known


def test_what_goes_on_behind_a_chain_stays() -> None:
    whole = Seen([7, 4, 5, 8, 9], [-1, 0, 1, 2, 2], goes_on=True)
    (tree,) = Forced(whole).propose([None], [ask(Rules([4, 5], banned=[9]))])
    assert (tree.token_list, tree.shape.parent_list) == ([7, 4, 5, 8], [-1, 0, 1, 2])
    other = Seen([7, 1, 4], [-1, 0, 0], goes_on=True)  # it does not
    (tree,) = Forced(other).propose([None], [ask(Rules([4, 5]))])
    assert tree.token_list == [7, 4, 5]


def test_what_is_forbidden_is_not_scored() -> None:
    inner = Seen([7, 1, 2, 3, 1, 99, -3], [-1, 0, 0, 1, 2, 2, 0])
    (tree,) = Forced(inner).propose([None], [ask(Rules(banned=[1]))])
    assert (tree.token_list, tree.shape.parent_list) == ([7, 2], [-1, 0])


def test_a_tree_on_another_root_leaves_the_chain() -> None:
    class Lost(Seen):
        def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
            return [TokenTree.chain(one.root + 1, [1]) for one in asks]

    for chain in ([4, 5], []):
        (tree,) = Forced(Lost([7], [-1], goes_on=True)).propose([None], [ask(Rules(chain))])
        assert tree.token_list == [7, *chain]


def test_plain_decoding_and_what_is_wrapped_stay_as_they_are() -> None:
    plain, forced = NoDraft(), Forced(NGram())
    assert with_forced(plain) is plain and with_forced(forced) is forced
    assert isinstance(with_forced(NGram()), Forced)


@pytest.mark.parametrize("make", [lambda: NGram(min_n=1), lambda: Mix([NGram(min_n=1)])])
def test_lookups_go_on_behind_a_chain(make: Any) -> None:
    """The text has 1 2 3 4 5 6; behind 2 3, which is certain, comes 4 5 6."""
    drafter = make()
    state = drafter.start(Prompt([1, 2, 3, 4, 5, 6, 9, 7]))
    for chain, expected in (([2, 3], [4, 5, 6]), ([5], [6, 9, 7]), ([11], [])):
        (tree,) = drafter.propose([state], [ask(Rules(chain))])
        assert tree.token_list[: 1 + len(chain)] == [7, *chain]
        assert tree.token_list[1 + len(chain) :][:2] == expected[:2]  # a mix prices the third
    short = ask(Rules([2, 3]), depth=3)
    assert drafter.propose([state], [short])[0].shape.height <= 3
    assert drafter.propose([state], [ask(Rules([2, 3]), budget=2)])[0].token_list == [7, 2, 3]


def test_a_mix_spends_nothing_on_what_is_forbidden() -> None:
    mix = Mix([NGram(min_n=1)])
    state = mix.start(Prompt([7, 1, 2, 7]))
    assert mix.propose([state], [ask()])[0].token_list[1] == 1
    assert mix.propose([state], [ask(Rules(banned=[1]))])[0].token_list == [7]
