"""What passes between the contracts: one choice call for all rows, edits, hidden states by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from outpace.core.edits import Edit, edited
from outpace.core.sampling import Sampling, warp
from outpace.core.steps import Ask, ScoredCall, Scores, Step, Verdict, weakest
from outpace.core.tree import TokenTree
from outpace.targets.table import TableTarget
from tests.rows import on, opened

TREES = [TokenTree.chain(1, [2, 3]), TokenTree([4, 1, 2], [-1, 0, 0]), TokenTree.root(3)]
SAMPLINGS = [Sampling(temperature=1.0, seed=5), Sampling(), Sampling(temperature=0.7, top_k=3)]


class CountingScores:
    """Canned choices that count the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def choose(self, samplings: Any, positions: Any, edits: Any, top: int) -> list[list[int]]:
        self.calls.append((samplings, positions, edits, top))
        return [[1], [2], [3]]

    def hidden(self, tap: str) -> np.ndarray:
        self.calls.append((tap,))
        return np.arange(7)[:, None]


def asks(edits: Sequence[Any] = (None, None, None)) -> list[Ask]:
    return [
        Ask(tree.token_list[0], 2 + row, sampling, budget=9, depth=9, edit=edit)
        for row, (tree, sampling, edit) in enumerate(zip(TREES, SAMPLINGS, edits, strict=True))
    ]


def test_rows_share_one_choice_call_which_waits_for_a_reader() -> None:
    scores = CountingScores()
    rows = ScoredCall(cast("Scores", scores), TREES, asks()).rows()
    assert not scores.calls
    assert [row.choices for row in (*rows, rows[0])] == [[1], [2], [3], [1]]
    assert scores.calls == [(SAMPLINGS, [2, 3, 4], None, 0)]


def test_hidden_states_are_cut_by_row_and_fetched_once_for_all() -> None:
    scores = CountingScores()
    rows = ScoredCall(cast("Scores", scores), TREES, asks()).rows()
    assert [row.hidden("last")[:, 0].tolist() for row in rows] == [[0, 1, 2], [3, 4, 5], [6]]
    assert scores.calls == [("last",)]
    assert rows[2].hidden("first")[:, 0].tolist() == [6] and scores.calls == [("last",), ("first",)]


def test_edits_reach_choices_and_laws_of_their_row_alone() -> None:
    target = TableTarget.random(vocab_size=6, seed=1)
    ids, _ = opened(target, [[1, 2], [1, 2, 3], [1, 2, 3, 4]])
    scores = target.score(on(ids, TREES))
    ban = Edit([0, 1, 2], np.full(3, -np.inf))

    def edit(path: Sequence[int]) -> Edit | None:
        return ban if [TREES[0].token_list[0], *path][-1] == 2 else None

    plain = ScoredCall(scores, TREES, asks()).rows()
    changed = ScoredCall(scores, TREES, asks([edit, None, edit])).rows()
    assert changed[1].choices == plain[1].choices and changed[2].choices == plain[2].choices
    assert changed[0].choices[0] == plain[0].choices[0] and changed[0].choices[1] in (3, 4, 5)
    for node in range(3):
        raw = scores.logits(0, [node])[0]
        expected = warp(edited(raw, ban) if TREES[0].token_list[node] == 2 else raw, SAMPLINGS[0])
        assert np.allclose(changed[0].law(node, SAMPLINGS[0]), expected)
        assert np.array_equal(changed[0].logits([node])[0], raw)


def test_step_tokens_are_the_kept_drafts_and_one_more() -> None:
    row = ScoredCall(cast("Scores", CountingScores()), TREES, asks()).rows()[1]
    assert Step(TREES[1], row, Verdict([2], 5, "identical")).tokens == [2, 5]
    assert Step(TREES[1], row, Verdict([], 5, "identical")).tokens == [5]


def test_weakest_promise_wins() -> None:
    assert weakest("identical", "identical") == "identical"
    assert weakest("identical", "distribution") == "distribution"
    assert weakest("lossy", "distribution", "identical") == "lossy"
