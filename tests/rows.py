"""Rows of targets for tests: prompts that are read, trees on rows that have read everything before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from outpace.core.call import Call, Prompt, read
from outpace.core.contracts import Target
from outpace.core.steps import RowScores, Scores
from outpace.core.tree import TokenTree

NO_SCORES = cast(RowScores, None)
"""For steps of drafters that look at the tokens alone."""


def opened(
    target: Target, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]] | None = None
) -> tuple[list[int], Scores]:
    """New rows with these prompts, and the scores of their last tokens.

    With `drafts` a chain of them behind each prompt is scored as well, and nothing of the call is kept.
    """
    values = [Prompt.of(prompt) for prompt in prompts]
    rows: list[int] = []
    try:
        for prompt in values:
            rows.append(target.open(prompt.source))
        behind = [()] * len(rows) if drafts is None else drafts
        left = read(target, rows, values, spare=sum(map(len, behind)))
        calls = [
            Call(row, pending, TokenTree.chain(pending[-1], draft))
            for row, pending, draft in zip(rows, left, behind, strict=True)
        ]
        scores = target.score(calls)
        if drafts is None:
            target.keep(rows, [()] * len(rows))
    except BaseException:
        target.free(rows)
        raise
    return rows, scores


def on(rows: Sequence[int], trees: Sequence[TokenTree]) -> list[Call]:
    """Calls of rows that have read everything before their trees."""
    return [Call.on(row, tree) for row, tree in zip(rows, trees, strict=True)]
