"""Edits that a function computes: those of values written as functions, and how often they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from outpace.core.call import Call
from outpace.core.edits import AnyEdit, ComputedEdit, Edit, edited, known_edit
from outpace.core.sampling import NO_CHOICE, Sampling, warp
from outpace.core.steps import Ask, ScoredCall
from outpace.core.tree import TokenTree
from outpace.decode.judge import judge
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, result_of
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.edits import random_edit
from tests.fakes import hostile

VOCAB = 12
TABLE = TableTarget.random(vocab_size=VOCAB, order=2, spread=2.0, seed=5)


def value(text: Sequence[int], path: Sequence[int]) -> Edit | None:
    """An edit that depends on the whole text, and sometimes there is none."""
    seed = hash((*text, *path)) % 2**31
    return random_edit(np.random.default_rng(seed), VOCAB) if seed % 4 else None


def function(text: Sequence[int], path: Sequence[int]) -> ComputedEdit:
    edit = value(text, path)
    return ComputedEdit(lambda logits: edited(logits, edit))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.9, top_k=7, seed=4)])
@pytest.mark.parametrize("drafter", [NGram(min_n=1), *hostile(VOCAB).values()])
def test_a_function_gives_what_its_values_give(sampling: Sampling, drafter: Any) -> None:
    prompts = [[1, 2, 3], [4, 5], [7]]
    whole = [Request(prompt, sampling, 30, edit=value) for prompt in prompts]
    plain = result_of(events(TABLE, NoDraft(), Match(), whole))
    # Rows with values, with a function and with nothing share their calls.
    mixed = [Request(prompts[0], sampling, 30, edit=function), whole[1], Request(prompts[2], sampling, 30)]
    found = result_of(events(TABLE, drafter, Match(), mixed))
    (bare,) = result_of(events(TABLE, NoDraft(), Match(), mixed[2:]))
    assert [one.token_ids for one in found] == [*(one.token_ids for one in plain[:2]), bare.token_ids]
    assert TABLE.num_rows == 0


def called(after: Any, sampling: Sampling, tree: TokenTree) -> ScoredCall:
    row = TABLE.open()
    scores = TABLE.score([Call(row, [3, tree.token_list[0]], tree)])
    TABLE.free([row])
    return ScoredCall(scores, [tree], [Ask(tree.token_list[0], 1, sampling, 63, 9, edit=after)])


def test_nodes_are_asked_about_when_they_are_read() -> None:
    seen: list[tuple[int, ...]] = []

    def after(path: Sequence[int]) -> ComputedEdit:
        def compute(logits: Any) -> Any:
            seen.append(tuple(path))
            logits[:] = 0
            logits[sum(path) % VOCAB] = 1  # written into: the copy is its own
            return logits

        return ComputedEdit(compute)

    tree = TokenTree([5, 1, 0, 7, 1, 4], [-1, 0, 0, 1, 2, 2])
    call = called(after, Sampling(), tree)
    assert not seen
    (step,) = judge(Match(), call)
    assert seen == [(), (0,)] and step.tokens == [0, 0]
    choices = call.rows()[0].choices
    assert (choices[1], choices[-1], len(choices)) == (1, 4, 6)
    assert seen == [(), (0,), (1,), (0, 4)] and choices[1:3] == [1, 0]
    assert list(choices) == [0, 1, 0, 8, 1, 4] and len(seen) == 6
    with pytest.raises(IndexError):
        choices[6]
    law = call.rows()[0].law(3, Sampling(temperature=1.0))
    raw = np.zeros(VOCAB)
    raw[8] = 1
    np.testing.assert_allclose(law, warp(raw, Sampling(temperature=1.0)))


def test_where_nothing_is_left_there_is_no_choice() -> None:
    for wrong in (np.nan, -np.inf):
        call = called(lambda _: ComputedEdit(lambda logits: logits + wrong), Sampling(), TokenTree.root(5))  # noqa: B023
        assert call.rows()[0].choices[0] == NO_CHOICE


def test_a_mask_comes_last_and_is_what_is_known() -> None:
    bare = ComputedEdit(lambda logits: np.maximum(logits, 0.5))
    assert known_edit(bare) is None and bare.allows(3)
    mask = np.packbits(np.arange(VOCAB) < 4, bitorder="little")
    masked = bare.within(mask)
    found = edited(np.arange(-3, VOCAB - 3).astype(np.float32), masked)
    assert found[:4].tolist() == [0.5] * 4 and (found[4:] == -np.inf).all()
    known = known_edit(masked)
    assert known is not None and (masked.allows(3), masked.allows(4), known.allows(4)) == (True, False, False)
    hinted: AnyEdit = ComputedEdit(bare.compute, lambda: Edit([2], [-9.0])).within(mask)
    known = known_edit(hinted)
    assert known is not None and known.ids.tolist() == [2] and not known.allows(5)
