"""Cascades: what is drafted, how few calls of the small model it takes, and what is given up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from outpace.core.call import Call, Prompt
from outpace.core.contracts import Drafter, Target
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask
from outpace.drafters.model.cascade import Cascade
from outpace.drafters.model.cascade import cascade as make_cascade
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, generate
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain
from tests.fakes import Letters, whole
from tests.native_models import gguf_target

PROMPT = [1, 2, 3]
LETTERS = Letters("abcdefghijkl")
SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=5)]


class Counted(TableTarget):
    """Counts calls."""

    calls = 0

    def score(self, calls: Sequence[Call]) -> Any:
        self.calls += 1
        return super().score(calls)


def table(seed: int = 3, **options: Any) -> Counted:
    return Counted.random(vocab_size=12, order=2, seed=seed, **options)


CYCLE = [1, 2, 3, 1, 4, 2, 5, 3, 6, 1, 7]
"""No pair of tokens stands twice in it, so two tokens tell the next one, and one does not."""


def repeating(seed: int = 5) -> Counted:
    """Goes through the cycle again and again, all but surely."""
    model = table(seed)
    for place, token in enumerate(CYCLE):
        model.table[CYCLE[place - 2], CYCLE[place - 1], token] = 15.0
    return model


def cascade(small: Target, target: Target | None = None, tokenizer: Any = LETTERS, **options: Any) -> Cascade:
    context: dict[str, Any] = {
        "open_model": lambda source: SimpleNamespace(target=small, tokenizer=LETTERS, costs=None),
        "target": target or table(),
        "tokenizer": tokenizer,
    }
    return make_cascade(model="small", context=context, **context, **options)


def run(target: Target, drafter: Drafter, sampling: Sampling = SAMPLINGS[0], num: int = 55) -> Generation:
    made: Generation = whole(generate(target, drafter, Match(), Request(PROMPT, sampling, num)))[1]
    return made


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("draft", ["none", "ngram", "ngram:length=2,max_length=2"])
def test_the_small_models_own_text_is_the_draft(sampling: Sampling, draft: str) -> None:
    """Token for token what the small model alone would draft, whatever drafts for it."""
    for make, seed in ((table, 3), (table, 9), (repeating, 5), (repeating, 6)):
        target = table() if make is table else repeating()
        ours = run(target, cascade(make(seed), draft=draft, length=5), sampling, 120)
        theirs = run(target, SmallModel.of(make(seed), tree=Chain(length=5)), sampling, 120)
        assert ours.token_ids == theirs.token_ids == run(target, NoDraft(), sampling, 120).token_ids
        assert ours.stats.num_accepted == theirs.stats.num_accepted
        assert ours.stats.target_calls == theirs.stats.target_calls


def test_drafts_for_the_draft_model_save_its_calls() -> None:
    small, alone = repeating(), repeating()
    ours = run(repeating(), cascade(small, repeating(), draft="ngram:length=8"), num=200)
    theirs = run(repeating(), SmallModel.of(alone, tree=Chain(length=8)), num=200)
    assert ours.stats.target_calls == theirs.stats.target_calls
    assert small.calls < 0.4 * alone.calls


@pytest.mark.parametrize("tail", [1, 4])
def test_a_tail_lengthens_the_draft(tail: int) -> None:
    short = run(repeating(), cascade(repeating(), repeating(), length=4), num=150)
    long = run(repeating(), cascade(repeating(), repeating(), length=4, tail=tail), num=150)
    assert long.token_ids == short.token_ids
    assert long.stats.mean_accepted_length > short.stats.mean_accepted_length + 0.7 * tail


def test_guesses_leave_no_trace() -> None:
    """Rows of the small model and states of the drafters below: two are there while a request runs."""
    small, smaller = table(9), table(11)
    models = {"small": small, "smaller": smaller}
    context: dict[str, Any] = {
        "open_model": lambda source: SimpleNamespace(target=models[source], tokenizer=LETTERS, costs=None),
        "target": table(),
        "tokenizer": LETTERS,
    }
    drafter = make_cascade(
        model="small", draft="small_model:model=smaller", length=5, tail=2, context=context, **context
    )
    steps = generate(table(), drafter, Match(), Request(PROMPT, SAMPLINGS[1], 50))
    for _ in steps:
        assert small.num_rows <= 1 and smaller.num_rows <= 1
        for model in (small, smaller):
            text = [row[:2] for row in model._rows.values()]
            assert text in ([], [PROMPT[:2]])
    assert small.num_rows == smaller.num_rows == 0


class Watched(Counted):
    """Remembers the longest text of any row between calls."""

    def committed(self) -> list[int]:
        [row] = self._rows.values()
        return row


def test_the_small_models_row_holds_committed_text_alone() -> None:
    small = Watched.random(vocab_size=12, order=2, seed=4)
    target = table(4)
    noise = np.random.default_rng(0).normal(scale=0.8, size=target.table.shape)
    target.table = (target.table + noise).astype(np.float32)
    text = list(PROMPT)
    steps = generate(target, cascade(small, length=6), Match(), Request(PROMPT, SAMPLINGS[1], 60))
    text += next(steps)[0]
    lengths = set()
    for new, _ in steps:
        # All but what this step added: that is read with the next draft.
        if small.num_rows:
            assert small.committed() == text
        text += new
        lengths.add(len(new))
    assert len(lengths) > 2


def test_the_cheaper_drafter_forgets_what_was_guessed() -> None:
    drafter = cascade(repeating(), repeating(), length=6, tail=3)
    state = drafter.start(Prompt.of(PROMPT))
    before = (list(state.inner.tokens), dict(state.inner.index))
    state.unread.append(4)
    [tree] = drafter.propose([state], [Ask(4, 3, Sampling(), 20, 20)])
    assert tree.num_nodes > 6
    assert (state.inner.tokens, state.inner.index) == before
    drafter.stop(state)


def test_rows_side_by_side() -> None:
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    requests = [Request(prompt, Sampling(1.0, seed=n), 20 + 3 * n) for n, prompt in enumerate(prompts)]
    small = table(4)
    batch = whole(events(table(), cascade(small, tail=2), Match(), requests))[1]
    alone = [whole(generate(table(), cascade(table(4), tail=2), Match(), one))[1] for one in requests]
    assert [one.token_ids for one in batch] == [one.token_ids for one in alone]
    assert [one.stats.num_drafted for one in batch] == [one.stats.num_drafted for one in alone]
    assert small.num_rows == 0


def test_a_full_context_and_an_end_of_text_end_the_draft() -> None:
    small = table(context_length=20)
    ours = run(table(), cascade(small, length=9, tail=9))
    assert ours.token_ids == run(table(), NoDraft()).token_ids and ours.stats.num_drafted < 20
    assert small.num_rows == 0
    ended = table(eos_ids=frozenset(range(12)))
    drafter = cascade(table(), ended, length=6, tail=3)
    state = drafter.start(Prompt.of(PROMPT))
    state.unread.append(4)
    [tree] = drafter.propose([state], [Ask(4, 3, Sampling(), 20, 20)])
    assert tree.num_nodes == 2  # any token ends the text
    drafter.stop(state)


def test_an_arena_without_room_ends_the_draft_and_not_the_text() -> None:
    class Full(Counted):
        def fork(self, row: int) -> int:
            self.calls += 1
            if self.calls % 4 == 0:
                raise OutpaceError("the cache of keys and values is full")
            return super().fork(row)

    small = Full.random(vocab_size=12, order=2, seed=3)
    ours = run(table(), cascade(small))
    assert ours.token_ids == run(table(), NoDraft()).token_ids
    assert ours.stats.mean_accepted_length > 3 and small.num_rows == 0


def test_native_models(tmp_path: Path) -> None:
    options: dict[str, Any] = {"context_length": 64, "threads": 1}
    target, small = (gguf_target(tmp_path, "llama", "F32", **options) for _ in range(2))
    context: dict[str, Any] = {
        "open_model": lambda source: SimpleNamespace(target=small, tokenizer=None, costs=None),
        "target": target,
        "tokenizer": None,
    }
    for sampling in SAMPLINGS:
        drafter = make_cascade(model="x", draft="ngram:max_n=2", length=5, context=context, **context)
        ours = run(target, drafter, sampling, num=31)
        assert ours.token_ids == run(target, NoDraft(), sampling, num=31).token_ids
        assert ours.stats.target_calls == 5


def test_refusals() -> None:
    with pytest.raises(OutpaceError, match="target's vocabulary"):
        cascade(table(), tokenizer=Letters("lkjihgfedcba"))
    with pytest.raises(OutpaceError, match="accepted are drafters that can try"):
        cascade(table(), draft="jacobi")
    with pytest.raises(OutpaceError, match="length=0"):
        cascade(table(), length=0)
    with pytest.raises(OutpaceError, match="tail=-1"):
        cascade(table(), tail=-1)
