"""Jacobi decoding against an iteration over absolute positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling, choose
from outpace.core.steps import Ask, RowScores, ScoredCall, Step, Verdict
from outpace.core.tree import TokenTree
from outpace.decode.judge import judge
from outpace.decode.step import step
from outpace.drafters.lookup.jacobi import Jacobi
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import whole
from tests.rows import opened

SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=3), Sampling(temperature=0.6, top_k=4, seed=8)]


def run(
    target: TableTarget, drafter: Drafter, prompt: list[int], sampling: Sampling, num_steps: int
) -> list[tuple[list[int], TokenTree]]:
    """(text before the call, tree of the call) of every step."""

    def ask(text: list[int]) -> Ask:
        return Ask(text[-1], len(text) - 1, sampling, 99, 99, row=rows[0])

    rows, scores = opened(target, [prompt])
    text = list(prompt)
    steps: list[Step] = judge(Match(), ScoredCall(scores, [TokenTree.root(text[-1])], [ask(text)]))
    states: list[Any] = drafter.observe([drafter.start(Prompt.of(prompt))], steps)
    calls = []
    for _ in range(num_steps):
        text = [*text, *steps[0].tokens]
        steps, states, _ = step(target, drafter, Match(), states, [ask(text)])
        calls.append((text, steps[0].tree))
    drafter.stop(states[0])
    target.free(rows)
    return calls


def chosen(target: TableTarget, sampling: Sampling) -> Callable[[Sequence[int]], int]:
    """The target's choice after a text: the function whose fixed point is the output."""
    return lambda text: choose(target.after(list(text))[None], sampling, [len(text)])[0]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.integers(1, 6),
    st.integers(0, 999),
    st.floats(1.0, 6.0),
)
def test_every_guess_is_the_choice_behind_the_last_guesses(
    sampling: Sampling, prompt: list[int], length: int, seed: int, spread: float
) -> None:
    target = TableTarget.random(vocab_size=6, order=2, seed=seed, spread=spread)
    choice = chosen(target, sampling)
    guesses: dict[int, int] = {}  # by absolute position
    for text, tree in run(target, Jacobi(length=length), prompt, sampling, 8):
        positions = range(len(text), len(text) + length)
        block: list[int] = []
        for at in positions:
            block.append(guesses.get(at, (block or text)[-1]))  # the last guess again
        assert tree.is_chain and tree.token_list == [text[-1], *block]
        guesses = {at + 1: choice([*text, *block[: at - len(text) + 1]]) for at in positions}


def test_worked_example() -> None:
    """Every token is the one two before it plus one: a right pair of guesses makes the next pair right."""
    law = np.full((10, 10, 10), -9.0)
    for before in range(10):
        law[before, :, (before + 1) % 10] = 9.0
    calls = run(TableTarget(law), Jacobi(length=4), [0, 5], Sampling(), 5)
    # The text is 0 5 1 6 2 7 3 8 4 9 5 ...; the first block has the last token again and again.
    assert [tree.token_list for _, tree in calls] == [
        [1, 1, 1, 1, 1],  # none is right; behind 1, 1, 1, 1, 1 come 6, 2, 2, 2, 2
        [6, 2, 2, 2, 2],  # 2 is right; behind 2, 2, 2, 2 come 7, 3, 3, 3
        [7, 3, 3, 3, 3],  # 3 is right, for 7 before it was; behind 3, 3, 3, 3 come 8, 4, 4, 4
        [8, 4, 4, 4, 4],
        [9, 5, 5, 5, 5],
    ]
    assert [text[2:] for text, _ in calls] == [
        [1],
        [1, 6],
        [1, 6, 2, 7],
        [1, 6, 2, 7, 3, 8],
        [1, 6, 2, 7, 3, 8, 4, 9],
    ]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_guess_that_is_right_stays_right(sampling: Sampling) -> None:
    """So the tokens before it are enough: each call settles one position at least."""
    target = TableTarget.random(vocab_size=6, order=2, seed=5, spread=3.0)
    final = run(target, Jacobi(length=1), [1, 2, 3], sampling, 60)[-1][0]
    settled = 0
    for text, tree in run(target, Jacobi(length=6), [1, 2, 3], sampling, 20):
        right = 0
        while right < 6 and tree.token_list[1 + right] == final[len(text) + right]:
            right += 1
        assert len(text) + right >= settled
        settled = len(text) + right


def test_guesses_are_found_in_a_larger_tree_and_missing_ones_are_made_up() -> None:
    drafter = Jacobi(length=3)
    state = drafter.start(Prompt.of([7]))
    state.guesses = [1, 2, 3]

    class Choices:
        choices = [10, 11, 12, 13, 14, 15]  # noqa: RUF012

    # Root, another's 9, then 1 with another's 8 and 2; 3 was not scored.
    tree = TokenTree([0, 9, 1, 8, 2, 5], [-1, 0, 0, 2, 2, 1])
    [state] = drafter.observe(
        [state], [Step(tree, cast("RowScores", Choices()), Verdict([1], 15, "identical"))]
    )
    assert state.guesses == [14]
    [tree] = drafter.propose([state], [Ask(15, 2, Sampling(), 9, 9)])
    assert tree.token_list == [15, 14, 14, 14]
    [tree] = drafter.propose([state], [Ask(15, 2, Sampling(), 2, 1)])
    assert tree.token_list == [15, 14]


def test_it_saves_calls() -> None:
    law = np.full((10, 10, 10), -9.0)
    for before in range(10):
        law[before, :, (before + 1) % 10] = 9.0
    request = Request([0, 5], max_tokens=41)
    result = whole(generate(TableTarget(law), Jacobi(length=4), Match(), request))[1]
    assert result.stats.target_calls <= 22


@pytest.mark.parametrize("length", [0, -1])
def test_options_out_of_range(length: int) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Jacobi(length=length)
