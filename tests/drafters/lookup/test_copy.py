"""Copying the input against a linear search, and worked edits."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.copy import REACH, Copy, nearest
from tests.rows import NO_SCORES


def ask(root: int, *, budget: int = 99, depth: int = 99) -> Ask:
    return Ask(root, 0, Sampling(), budget, depth)


def step(tokens: list[int]) -> Step:
    tree = TokenTree.chain(0, tokens[:-1])
    return Step(tree, NO_SCORES, Verdict(list(range(1, len(tokens))), tokens[-1], "identical"))


def drafts(drafter: Copy, prompt: Sequence[int], blocks: list[list[int]], **limits: int) -> list[list[int]]:
    """What is proposed after each block of the output."""
    state, found = drafter.start(Prompt.of(prompt)), []
    for block in blocks:
        [state] = drafter.observe([state], [step(block)])
        [tree] = drafter.propose([state], [ask(block[-1], **limits)])
        assert tree.is_chain and tree.token_list[0] == block[-1]
        found.append(tree.token_list[1:])
    drafter.stop(state)
    return found


def slow_pointer(prompt: list[int], output: list[int], min_match: int) -> int | None:
    """The docstring's rules, told token by token with searches through the whole prompt."""
    pointer, home, last_agreed = None, 0, -10 * REACH
    for i in range(len(output)):
        text = prompt + output[: i + 1]
        if pointer is not None and pointer < len(prompt) and prompt[pointer] == output[i]:
            pointer += 1
            home, last_agreed = pointer, i
            continue
        lost = i - last_agreed
        window = [at for at in range(home, len(prompt)) if at < home + REACH and prompt[at] == output[i]]
        places = [
            at
            for at in range(min_match, len(prompt))
            if prompt[at - min_match : at] == text[len(text) - min_match :]
        ]
        if lost <= REACH and window:
            pointer = window[0] + 1
        elif places:
            pointer = min(places, key=lambda at: (abs(at - home), -at))
        else:
            pointer = home + 1 if lost == 1 else None
    return pointer


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=12),
    st.integers(1, 3),
    st.integers(1, 12),
)
def test_equals_a_linear_search(
    prompt: list[int], blocks: list[list[int]], min_match: int, length: int
) -> None:
    output: list[int] = []
    for block, draft in zip(
        blocks, drafts(Copy(length=length, min_match=min_match), prompt, blocks), strict=True
    ):
        output += block
        pointer = slow_pointer(prompt, output, min_match)
        assert draft == ([] if pointer is None else prompt[pointer : pointer + length])


TEXT = list(range(10, 40))


def after(output: list[int], prompt: list[int] = TEXT, **options: int) -> list[int]:
    """The draft after the output came token by token."""
    return drafts(Copy(**{"length": 3, "min_match": 2, **options}), prompt, [[token] for token in output])[-1]


def test_a_source_is_found_again_after_foreign_tokens() -> None:
    """Behind a decoder's single first token, too, whose row has not two of them at first."""
    prompt = Prompt([999], SimpleNamespace(ids=TEXT, key=0))
    foreign = [901, 902, 903, 904, 905, 906, 907, 908, 909, 910, 911, 912]
    assert drafts(Copy(length=3, min_match=2), prompt, [foreign, TEXT[10:12]])[1] == TEXT[12:15]


def test_an_exact_copy_is_drafted_to_the_end() -> None:
    assert after([10]) == []
    assert after([10, 11]) == [12, 13, 14]
    assert after(TEXT[:20]) == [30, 31, 32]
    assert after(TEXT[:28]) == [38, 39]
    assert after(TEXT) == []


def test_edits_keep_the_place() -> None:
    assert after([10, 11, 12, 99]) == [14, 15, 16]  # as if 13 had been replaced
    assert after([10, 11, 12, 99, 14]) == [15, 16, 17]  # it was
    assert after([10, 11, 12, 99, 13]) == [14, 15, 16]  # something was put in
    assert after([10, 11, 12, 99, 98]) == []
    assert after([10, 11, 12, 99, 98, 13]) == [14, 15, 16]
    assert after([10, 11, 12, 14]) == [15, 16, 17]  # 13 was left out
    assert after([10, 11, 12, 25]) == [14, 15, 16]  # out of reach
    assert after([10, 11, 12, 25, 26]) == [27, 28, 29]


def test_of_many_occurrences_the_one_in_turn_is_meant() -> None:
    verse = [1, 2, 50, 51, 1, 2, 60, 61, 1, 2, 70, 71]
    assert after([1, 2], verse) == [50, 51, 1]
    assert after([1, 2, 50, 51, 99, 1], verse) == [2, 60, 61]
    assert after([1, 2, 50, 51, 1, 2, 99, 98, 1, 2], verse) == [70, 71]
    assert nearest([3, 8, 20], 0) == 3 and nearest([3, 8, 20], 6) == 8 and nearest([3, 9], 6) == 9
    assert nearest([3, 8, 20], 99) == 20


def test_the_end_of_the_prompt_is_no_place() -> None:
    assert after([7, 8, 1, 2, 99, 98, 1, 2], [1, 2, 3, *TEXT, 7, 8, 1, 2]) == [3, 10, 11]


def test_a_false_place_is_given_up() -> None:
    """An alignment that nothing confirms leaves the home where it was."""
    prompt = [1, 2, 3, 4, 5, 6, *range(100, 140), 7, 8, 9]
    assert after([1, 2, 3, 7, 8, 4], prompt) == [5, 6, 100]


def test_an_edited_text_costs_few_calls() -> None:
    """Most of a text with an edit every 20 tokens comes from drafts; a look-up alone would also do so."""
    coins = random.Random(0)
    source = [coins.randrange(50) for _ in range(400)]
    output = [99 if i % 20 == 19 else token for i, token in enumerate(source)]
    state, drafter, calls, at = Copy().start(Prompt.of(source)), Copy(), 0, 0
    while at < len(output):
        [tree] = drafter.propose([state], [ask(output[at - 1] if at else source[-1])])
        same = 0
        draft = tree.token_list[1:]
        while same < len(draft) and output[at + same : at + same + 1] == draft[same : same + 1]:
            same += 1
        block = output[at : at + same + 1]
        [state] = drafter.observe([state], [step(block)])
        at, calls = at + len(block), calls + 1
    assert calls < len(output) / 5


def test_drafts_respect_the_ask() -> None:
    options: list[dict[str, int]] = [{"budget": 2}, {"depth": 1}, {"depth": 0}, {"budget": 0}]
    lengths = [len(drafts(Copy(), TEXT, [[10, 11]], **limits)[0]) for limits in options]
    assert lengths == [2, 1, 0, 0]


@pytest.mark.parametrize("options", [{"length": 0}, {"min_match": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Copy(**options)
