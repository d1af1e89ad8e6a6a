"""Prompt lookup against a quadratic search."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram
from tests.rows import NO_SCORES


def slow_draft(tokens: list[int], *, min_n: int, max_n: int, length: int, max_length: int) -> list[int]:
    """What follows the latest earlier occurrence of the longest suffix, its own copies included."""
    for n in range(max_n, min_n - 1, -1):
        for end in range(len(tokens) - 1, n - 1, -1):
            if tokens[end - n : end] == tokens[-n:]:
                matched = max(m for m in range(n, end + 1) if tokens[end - m : end] == tokens[-m:])
                text = list(tokens)
                for i in range(max(length, min(matched, max_length))):
                    text.append(text[end + i])
                return text[len(tokens) :]
    return []


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def step(tokens: list[int]) -> Step:
    """A step that commits these tokens."""
    tree = TokenTree.chain(0, tokens[:-1])
    return Step(tree, NO_SCORES, Verdict(list(range(1, len(tokens))), tokens[-1], "identical"))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=8),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_equals_a_search_through_the_whole_text(
    prompt: list[int], blocks: list[list[int]], min_n: int, more: int, length: int, max_length: int
) -> None:
    options = {"min_n": min_n, "max_n": min_n + more, "length": length, "max_length": max_length}
    drafter = NGram(**options)
    state, text = drafter.start(Prompt.of(prompt)), list(prompt)
    for block in [*blocks, [0]]:
        [tree] = drafter.propose([state], [ask(text[-1])])
        assert tree.is_chain and tree.token_list[0] == text[-1]
        assert tree.token_list[1:] == slow_draft(text, **options)
        [state] = drafter.observe([state], [step(block)])
        text += block
    drafter.stop(state)


def draft(tokens: list[int], drafter: NGram, **limits: int) -> list[int]:
    [tree] = drafter.propose([drafter.start(Prompt.of(tokens))], [ask(tokens[-1], **limits)])
    return tree.token_list[1:]


def test_longest_match_first_and_of_its_places_the_latest() -> None:
    one = NGram(length=1, max_length=1)
    assert draft([1, 2, 3, 9, 2, 3, 8, 3, 7, 1, 2, 3], one) == [9]
    assert draft([1, 2, 3, 9, 2, 3, 8, 3, 7, 5, 2, 3], one) == [8]
    assert draft([1, 2, 3, 9, 2, 3, 8, 3, 7, 5, 5, 3], one) == [7]
    assert draft([1, 2, 3, 9, 2, 3, 8, 3, 7, 5, 5, 3], NGram(min_n=2)) == []


def test_a_copy_goes_on_with_itself() -> None:
    assert draft([5, 1, 2, 1, 2], NGram(length=5)) == [1, 2, 1, 2, 1]
    assert draft([7, 7], NGram(length=3)) == [7, 7, 7]
    assert draft([7], NGram(length=3)) == []


def test_the_draft_grows_with_the_match() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert draft([*text, 0, 5], NGram(length=1)) == [6]
    assert draft([*text, 0, 4, 5], NGram(length=1)) == [6, 7]
    assert draft([*text, 0, 2, 3, 4, 5], NGram(length=1)) == [6, 7, 8, 9]
    assert draft([*text, 0, 2, 3, 4, 5], NGram(length=2)) == [6, 7, 8, 9]
    assert draft([*text, 0, 2, 3, 4, 5], NGram(length=2, max_length=3)) == [6, 7, 8]
    assert draft([*text, 0, 2, 3, 4, 5], NGram(length=5, max_length=3)) == [6, 7, 8, 9, 0]


def test_drafts_respect_the_ask() -> None:
    tokens = [1, 2, 3, 4, 5, 6, 1]
    drafter = NGram(length=4)
    assert draft(tokens, drafter) == [2, 3, 4, 5]
    assert draft(tokens, drafter, budget=2) == [2, 3]
    assert draft(tokens, drafter, depth=1) == [2]
    assert draft(tokens, drafter, depth=0) == []


def test_the_index_grows_by_a_constant_per_token() -> None:
    drafter = NGram(min_n=1, max_n=3)
    state = drafter.start(Prompt.of(range(1000)))
    before = len(state.index)
    [state] = drafter.observe([state], [step([5000, 5001])])
    assert len(state.index) - before == 2 * 3


@pytest.mark.parametrize(
    "options", [{"min_n": 0}, {"min_n": 4}, {"max_n": 0}, {"length": 0}, {"max_length": 0}]
)
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        NGram(**options)
