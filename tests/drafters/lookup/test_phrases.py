"""Phrases below another drafter: the pool against a list, worked trees, and what the target confirms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, RowScores, Step, Verdict
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters import DRAFTERS
from outpace.drafters.lookup.phrases import PhrasePool, Phrases, confirmed
from outpace.drafters.none import NoDraft
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import whole


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def step(tokens: list[int]) -> Step:
    """A step that drafts nothing that is rejected."""
    tree = TokenTree.chain(0, tokens[:-1])
    scores: Any = SimpleNamespace(choices=[0] * len(tokens))
    return Step(tree, scores, Verdict(list(range(1, len(tokens))), tokens[-1], "identical"))


class Inner:
    """A drafter that proposes the same tree always and remembers what it is told."""

    traits = Traits(branches=True)

    def __init__(self, tree: TokenTree) -> None:
        self.tree = tree
        self.calls: list[Any] = []

    def start(self, prompt: Any) -> str:
        self.calls.append(("start", list(prompt)))
        return "state"

    def propose(self, states: Any, asks: Any) -> list[TokenTree]:
        return [self.tree for _ in asks]

    def observe(self, states: Any, steps: Any) -> list[Any]:
        self.calls.append(("observe", list(states), [one.tokens for one in steps]))
        return ["next" for _ in states]

    def stop(self, state: Any) -> None:
        self.calls.append(("stop", state))


def phrases(tree: TokenTree | None = None, **options: Any) -> Phrases:
    return Phrases(NoDraft() if tree is None else Inner(tree), **options)


def draft(drafter: Phrases, prompt: list[int], **limits: int) -> TokenTree:
    [tree] = drafter.propose([drafter.start(Prompt.of(prompt))], [ask(prompt[-1], **limits)])
    return tree


PROMPT = [1, 2, 3, 9, 1, 2, 4, 8, 1, 5, 6, 7, 1]


def test_the_latest_phrases_hang_on_the_root_as_a_trie() -> None:
    tree = draft(phrases(num_phrases=3), PROMPT)
    assert tree.token_list == [1, 5, 6, 2, 4, 3] and tree.shape.parent_list == [-1, 0, 1, 0, 3, 3]
    assert draft(phrases(num_phrases=1), PROMPT).token_list == [1, 5, 6]
    assert draft(phrases(num_phrases=1, phrase_length=3), PROMPT).token_list == [1, 5, 6, 7]
    # "6 7 1" is the last phrase of two tokens behind its first; "7 1" and what follows is not yet one.
    assert draft(phrases(), [*PROMPT, 6]).token_list == [6, 7, 1]
    assert draft(phrases(), [*PROMPT, 7]).token_list == [7, 1, 7]
    assert draft(phrases(), [*PROMPT, 99]).token_list == [99]


def test_phrases_hang_on_the_deepest_node() -> None:
    inner = TokenTree([1, 2, 1, 5], [-1, 0, 1, 0], logq=[0.0, -1.0, -2.0, -3.0])
    tree = draft(phrases(inner), PROMPT)
    assert tree.token_list == [1, 2, 1, 5, 5, 6, 2, 4] and tree.shape.parent_list == [-1, 0, 1, 0, 2, 4, 2, 6]
    unknown = TokenTree([1, 99], [-1, 0], logq=[0.0, -1.0])
    assert draft(phrases(unknown), PROMPT) is unknown


def test_a_drawn_tree_loses_its_law_even_where_no_phrase_is_known() -> None:
    law = np.full(100, 0.01)
    drawn = TokenTree([1, 99], [-1, 0], draw="iid", logq=[0.0, -4.6], laws=[law, None])
    tree = draft(phrases(drawn), PROMPT)
    assert tree.draw == "point" and tree.law(0) is None and tree.token_list == [1, 99]
    assert not getattr(phrases(), "draws", None)


def test_drafts_respect_the_ask() -> None:
    inner = TokenTree.chain(1, [2, 1])
    assert draft(phrases(inner), PROMPT).num_nodes == 7
    assert draft(phrases(inner), PROMPT, budget=3).token_list == [1, 2, 1, 5]
    assert draft(phrases(inner), PROMPT, budget=2) is inner
    assert draft(phrases(inner), PROMPT, depth=3).token_list == [1, 2, 1, 5, 2]
    assert draft(phrases(inner), PROMPT, depth=2) is inner


def test_the_inner_drafter_sees_all() -> None:
    drafter = phrases(TokenTree.root(1))
    inner = cast("Inner", drafter.inner)
    state = drafter.start(Prompt.of([4, 1]))
    [state] = drafter.observe([state], [step([7, 8])])
    drafter.stop(state)
    assert inner.calls == [("start", [4, 1]), ("observe", ["state"], [[7, 8]]), ("stop", "next")]


def test_steps_and_blocks_make_the_same_phrases() -> None:
    whole_text = phrases().start(Prompt.of(PROMPT))
    drafter = phrases()
    state = drafter.start(Prompt.of(PROMPT[:2]))
    for block in ([3], [9, 1, 2, 4], [8, 1], [5, 6, 7, 1]):
        [state] = drafter.observe([state], [step(block)])
    assert list(state.pool) == list(whole_text.pool)
    n = 3
    seen = [tuple(PROMPT[i : i + n]) for i in range(len(PROMPT) - n + 1)]
    assert list(state.pool) == seen


def test_phrases_of_a_request_serve_the_next_but_not_one_beside_it() -> None:
    drafter = phrases()
    first, second = drafter.start(Prompt.of([50, 51, 52])), drafter.start(Prompt.of([50]))
    assert drafter.propose([second], [ask(50)])[0].num_nodes == 1
    drafter.stop(first)
    assert drafter.propose([second], [ask(50)])[0].token_list == [50, 51, 52]
    drafter.stop(drafter.start(Prompt.of([50, 60, 61])))
    drafter.stop(drafter.start(Prompt.of([50, 51, 52])))
    # A row's own come first, and what both know counts once.
    assert draft(drafter, [50, 51, 52, 9, 50]).token_list == [50, 51, 52, 60, 61]
    assert draft(drafter, [50, 51, 52, 50, 7, 8, 50]).token_list == [50, 7, 8, 51, 52]


def test_rejected_drafts_give_what_the_target_confirms() -> None:
    #   0 -> 1 -> 2 -> 3 -> 4, and 2 -> 5 -> 6; node 1 is kept, the target goes on with 77.
    tree = TokenTree([10, 11, 12, 13, 14, 15, 16], [-1, 0, 1, 2, 3, 2, 5])
    choices = [11, 77, 13, 14, 99, 16, 98]
    step_ = Step(tree, cast("RowScores", SimpleNamespace(choices=choices)), Verdict([1], 77, "identical"))
    # 12 is followed by 13 and 14, as drafted, and then by 99; 15 was not chosen, but 16 after it was.
    assert confirmed(step_, 9) == [(12, 13, 14, 99), (15, 16, 98)]
    assert confirmed(step_, 3) == [(12, 13, 14), (15, 16, 98)]
    nothing = cast("RowScores", SimpleNamespace(choices=[11, 77, 0, 0, 0, 0, 0]))
    assert confirmed(Step(tree, nothing, Verdict([1], 77, "identical")), 9) == []


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=60), st.integers(1, 6))
def test_the_pool_equals_a_list(added: list[tuple[int, int]], size: int) -> None:
    pool = PhrasePool(size)
    listed: list[tuple[int, int]] = []
    for phrase in added:
        pool.add(phrase)
        listed = [*(other for other in listed if other != phrase), phrase][-size:]
        assert list(pool) == listed
        for token in range(4):
            wanted = [other for other in reversed(listed) if other[0] == token]
            assert pool.latest(token, 2) == wanted[:2]


def test_fewer_calls_than_the_inner_drafter_alone() -> None:
    target = TableTarget.random(vocab_size=8, order=1, spread=6.0, seed=5)
    request = Request([1, 2, 3], Sampling(temperature=1.0, seed=1), 200)
    plain, lengthened = (
        whole(generate(target, drafter, Match(), request))[1] for drafter in (phrases().inner, phrases())
    )
    assert lengthened.token_ids == plain.token_ids
    assert lengthened.stats.target_calls < plain.stats.target_calls / 2


@pytest.mark.parametrize("options", [{"num_phrases": 0}, {"phrase_length": 0}, {"pool": 0}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        phrases(**options)


def test_an_unknown_inner_drafter_is_refused() -> None:
    with pytest.raises(OutpaceError, match="unknown drafter 'magic'"):
        DRAFTERS.create("phrases:draft=magic")
