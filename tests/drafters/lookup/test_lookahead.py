"""Lookahead decoding against a window that is kept by absolute positions."""

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
from outpace.drafters.lookup.lookahead import Lookahead
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
        return Ask(text[-1], len(text) - 1, sampling, 999, 99, row=rows[0])

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
    """The target's choice after a text."""
    return lambda text: choose(target.after(list(text))[None], sampling, [len(text)])[0]


def paths_of(tree: TokenTree) -> list[tuple[int, ...]]:
    """The tokens on the way to every node but the root."""
    return [tuple(tree.token_list[i] for i in tree.path_to(node)[1:]) for node in range(1, tree.num_nodes)]


def prefixes(paths: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    return {tuple(path[:length]) for path in paths for length in range(1, len(path) + 1)}


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.integers(1, 5),
    st.integers(2, 5),
    st.integers(1, 3),
    st.integers(0, 999),
    st.floats(1.0, 6.0),
)
def test_window_and_pool(
    sampling: Sampling,
    prompt: list[int],
    window: int,
    ngram: int,
    candidates: int,
    seed: int,
    spread: float,
) -> None:
    target = TableTarget.random(vocab_size=6, order=2, seed=seed, spread=spread)
    choice = chosen(target, sampling)
    pool = [tuple(prompt[at : at + ngram]) for at in range(len(prompt) - ngram + 1)]  # in order of arrival
    columns: dict[int, list[int]] = {}  # by the absolute position of the lowest token
    num_drawn = 0
    drafter = Lookahead(window=window, ngram=ngram, candidates=candidates)
    for text, tree in run(target, drafter, prompt, sampling, 7):
        columns = {at: column for at, column in columns.items() if at >= len(text)}
        for at in range(len(text), len(text) + window):
            if at not in columns:
                columns[at] = [prompt[(num_drawn + i) % len(prompt)] for i in range(ngram - 1)]
                num_drawn += ngram - 1
        spine = [columns[at][0] for at in range(len(text), len(text) + window)]
        tops = [[*spine[:j], *columns[len(text) + j]] for j in range(window)]
        recent = list(dict.fromkeys(gram for gram in reversed(pool) if gram[0] == text[-1]))[:candidates]
        paths = paths_of(tree)
        assert len(set(paths)) == len(paths)
        assert set(paths) == prefixes([*tops, *(gram[1:] for gram in recent)])
        # One iteration: every column loses its lowest token and gets the choice at its top.
        advanced = {}
        for j, path in enumerate(tops):
            column = columns[len(text) + j]
            new = choice([*text, *path])
            pool.append((*column, new))
            advanced[len(text) + j + 1] = [*column[1:], new]
        columns = advanced


def test_worked_example() -> None:
    """Window of two columns, trigrams; each token is followed by the next number."""
    law = np.full((10, 10), -9.0)
    for token in range(10):
        law[token, (token + 1) % 10] = 9.0
    calls = run(TableTarget(law), Lookahead(window=2, ngram=3, candidates=2), [4, 8, 0], Sampling(), 4)
    texts, trees = zip(*calls, strict=True)
    assert [text[3:] for text in texts] == [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4]]
    # Columns 4 8 and 0 4 of the prompt: the chain 4 0, with 8 above the 4 and 4 above the 0.
    assert paths_of(trees[0]) == [(4,), (4, 8), (4, 0), (4, 0, 4)]
    # Tops were followed by 9 and 5: trigrams 4 8 9 and 0 4 5, columns 8 9 and 4 5.
    assert paths_of(trees[1]) == [(8,), (8, 9), (8, 4), (8, 4, 5)]
    # Trigrams 8 9 0 and 4 5 6, columns 9 0 and 5 6.
    assert paths_of(trees[2]) == [(9,), (9, 0), (9, 5), (9, 5, 6)]
    # Root 4: candidates 5 6 (the newest), 8 9, 8 0 (of the prompt) has gone; columns 0 1 and 6 7.
    assert paths_of(trees[3]) == [(5,), (5, 6), (8,), (8, 9), (0,), (0, 1), (0, 6), (0, 6, 7)]


def test_what_does_not_fit_is_left_out_and_starts_again() -> None:
    drafter = Lookahead(window=3, ngram=3, candidates=1)
    state = drafter.start(Prompt.of([1, 2, 3, 4, 5, 6]))
    [tree] = drafter.propose([state], [Ask(0, 5, Sampling(), 3, 99)])
    assert paths_of(tree) == [(1,), (1, 2), (1, 3)]
    [tree] = drafter.propose([state], [Ask(0, 5, Sampling(), 99, 2)])
    assert paths_of(tree) == [(1,), (1, 2), (1, 3)]

    class Choices:
        choices = [7, 8, 9, 7]  # noqa: RUF012

    one = Step(tree, cast("RowScores", Choices()), Verdict([], 7, "identical"))
    [state] = drafter.observe([state], [one])
    assert state.columns == [[2, 9]]
    assert state.pool[1] == [[2, 9]]
    [tree] = drafter.propose([state], [Ask(7, 6, Sampling(), 99, 99)])
    assert [column[0] for column in state.columns] == [2, 1, 3]


def test_the_pool_keeps_the_latest_of_each_token() -> None:
    drafter = Lookahead(window=1, ngram=2, candidates=2)
    state = drafter.start(Prompt.of([1, 2, 1, 3, 1, 2, 1, 4, 1]))
    assert state.pool[1] == [[2], [4]]
    [tree] = drafter.propose([state], [Ask(1, 8, Sampling(), 2, 9)])
    assert paths_of(tree) == [(4,), (2,)]


def test_it_saves_calls() -> None:
    law = np.full((10, 10), -9.0)
    for token in range(10):
        law[token, (token + 1) % 10] = 9.0
    result = whole(generate(TableTarget(law), Lookahead(), Match(), Request([0, 3, 7], max_tokens=61)))[1]
    assert result.token_ids == [(8 + i) % 10 for i in range(61)]
    assert result.stats.target_calls <= 30


@pytest.mark.parametrize("options", [{"window": 0}, {"ngram": 1}, {"candidates": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are"):
        Lookahead(**options)
