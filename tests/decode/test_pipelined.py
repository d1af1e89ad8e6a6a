"""The pipelined loop: plain decoding's tokens whatever early outputs say, in as many passes as expected."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from outpace.core.edits import Edit
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.traits import Traits
from outpace.decode.loops import loop_of
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.lookup.recycling import Recycling
from outpace.drafters.model.speed import Speed
from outpace.drafters.none import NoDraft
from outpace.engine.engine import Engine, Job
from outpace.engine.generate import generate
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.rules.topk import TopK
from outpace.targets.table import TableTarget
from tests.fakes import hostile, whole
from tests.looped_table import LoopedTable

VOCAB_SIZE = 9
SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=4), Sampling(temperature=0.7, top_k=4, seed=5)]
DEPTHS = [(2, 1, 0), (3, 1, 2), (4, 1, 0), (4, 1, 3), (4, 2, 3), (4, 3, 0), (6, 2, 0), (6, 1, 4)]
"""Loops, d1, d2 (0: one proposal)."""


def table(loops: int, agreement: float, **options: Any) -> LoopedTable:
    options = {"vocab_size": VOCAB_SIZE, "order": 2, "seed": 3, "context_length": 96} | options
    return LoopedTable.of(loops, agreement, **options)


def run(target: Any, drafter: Any, request: Request) -> Generation:
    result: Generation = whole(generate(target, drafter, Match(), request))[1]
    return result


def plain(request: Request, **options: Any) -> Generation:
    return run(table(2, 0.0, **options), NoDraft(), request)


@cache
def plain_tokens(request: Request) -> list[int]:
    return plain(replace(request, prompt=list(request.prompt))).token_ids


@pytest.mark.parametrize(("loops", "early", "second"), DEPTHS)
@pytest.mark.parametrize("agreement", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_tokens_are_those_of_plain_decoding(
    loops: int, early: int, second: int, agreement: float, sampling: Sampling
) -> None:
    target = table(loops, agreement)
    drafts = [None, NGram(), *map(hostile(VOCAB_SIZE).get, ("garbage", "twins", "outside", "everything"))]
    for number, draft in enumerate(drafts):
        for prompt in ([1, 2, 3, 1, 2, 3, 1], [5, 6] * 20):
            request = Request(tuple(prompt), sampling, 30, budget=(63, 2, 0, 9, 5, 7)[number])
            drafter = Speed(early=early, second=second, draft=draft, target=target)
            assert run(target, drafter, request).token_ids == plain_tokens(request)
    assert target.num_rows == 0


@pytest.mark.parametrize(("loops", "early", "second"), [one for one in DEPTHS if not one[2]])
@pytest.mark.parametrize("agreement", [0.0, 0.7, 0.9, 1.0])
def test_passes_follow_the_formula(loops: int, early: int, second: int, agreement: float) -> None:
    """a * d1 + (1 - a) * R passes for each token, a being the share of right guesses."""
    target = table(loops, agreement, order=3, context_length=1200)
    request = Request([1, 2], Sampling(temperature=1.0, seed=2), 1000)
    stats = run(target, Speed(early=early, target=target), request).stats
    assert stats.num_passes == target.passes
    a = stats.num_accepted / stats.target_calls
    assert abs(a - agreement) < 0.2  # sampled, the opposite is right now and then
    assert stats.passes_per_token == pytest.approx(a * early + (1 - a) * loops, rel=0.01)
    assert target.most <= -(-loops // early)


def test_a_second_guess_saves_passes() -> None:
    one, two = table(4, 0.6, context_length=600), table(4, 0.6, context_length=600)
    request = Request([1], Sampling(temperature=1.0, seed=2), 500)
    single = run(one, Speed(early=1, target=one), request).stats
    double = run(two, Speed(early=1, second=2, target=two), request).stats
    assert double.num_passes < 0.9 * single.num_passes
    assert double.num_accepted > single.num_accepted


def test_what_a_lookup_knows_enters_beside_the_guesses() -> None:
    options = {"order": 1, "spread": 6.0}
    request = Request([1, 2, 3, 4], Sampling(), 60)
    guessing, both = table(4, 0.0, **options), table(4, 0.0, **options)
    alone = run(guessing, Speed(early=1, target=guessing), request)
    with_lookup = run(both, Speed(early=1, draft=NGram(), target=both), request)
    assert alone.token_ids == with_lookup.token_ids == plain(request, **options).token_ids
    assert both.passes < 0.6 * guessing.passes


@pytest.mark.parametrize("seed", range(6))
def test_rows_that_join_and_leave_have_what_they_have_alone(seed: int) -> None:
    rng = random.Random(seed)
    target = table(rng.choice([3, 4, 6]), 0.7)
    second = rng.choice([0, 2])
    draft = rng.choice([None, NGram()])
    engine = Engine(
        target,
        Speed(early=rng.choice([0, 1]) if not second else 1, second=second, draft=draft, target=target),
        Match(),
    )
    waiting = [
        Request(
            [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 5, 30]))],
            rng.choice(SAMPLINGS),
            rng.randrange(1, 30),
        )
        for _ in range(9)
    ]
    jobs: list[tuple[Request, Job]] = []
    cancelled = []
    while waiting or engine.busy:
        if waiting and (rng.random() < 0.3 or not engine.busy):
            request = waiting.pop()
            jobs.append((request, engine.add(request)))
        if rng.random() < 0.02:
            one = rng.choice(jobs)[1]
            if one.result is None:
                engine.cancel(one)
                cancelled.append(one)
        engine.step()
    for request, job in jobs:
        if job not in cancelled:
            assert job.result is not None and job.result.token_ids == plain(request).token_ids
    assert target.num_rows == 0 and len(cancelled) < len(jobs)


def test_a_failing_pass_starts_its_rows_anew() -> None:
    class Failing(LoopedTable):
        broken = 0

        def advance(self, passes: Sequence[Any], heads: Any = None) -> Any:
            scores = super().advance(passes, heads)
            self.broken += 1
            if self.broken == 7 and len(passes) > 1:
                raise OutpaceError("a failure of the moment")
            return scores

    options = {"vocab_size": VOCAB_SIZE, "order": 2, "seed": 3, "context_length": 96}
    target = Failing.of(4, 0.8, **options)
    engine = Engine(target, Speed(target=target), Match())
    requests = [Request([n], Sampling(), 20) for n in range(3)]
    jobs = [engine.add(request) for request in requests]
    while engine.busy:
        engine.step()
    assert [job.result and job.result.token_ids for job in jobs] == [plain(r).token_ids for r in requests]


def test_edits_and_logprobs_are_those_of_plain_decoding() -> None:
    def edit(text: Sequence[int], path: Sequence[int]) -> Edit | None:
        """No token may follow itself, and a token is dearer the longer the text is."""
        every = [*text, *path]
        ids = np.array([every[-1], len(every) % VOCAB_SIZE], np.int32)
        return Edit(ids=ids, added=np.array([-50.0, 2.0], np.float32)) if ids[0] != ids[1] else None

    for sampling in SAMPLINGS:
        request = Request([1, 2], sampling, 40, edit=edit, logprobs=3)
        target = table(4, 0.6)
        expected = plain(request)
        for draft in (None, NGram()):
            got = run(target, Speed(early=1, second=2, draft=draft, target=target), request)
            assert got.token_ids == expected.token_ids and got.logprobs == expected.logprobs


def test_what_was_under_way_is_reported() -> None:
    target = table(4, 0.7)
    engine = Engine(target, Speed(early=1, second=2, target=target), Match())
    engine.add(Request([1], Sampling(), 40))
    kept = 0
    while engine.busy:
        for event in engine.step():
            assert event.num_accepted <= event.num_drafted
            if event.path:
                assert event.tree.token_list[event.path[-1]] == event.tokens[-1]
                kept += 1
    assert kept > 10


def test_what_does_not_fit_is_refused() -> None:
    target = table(4, 0.5)
    for early, second in ((0, 2), (4, 0), (-1, 0), (2, 2), (2, 1), (1, 4), (3, 4)):
        with pytest.raises(OutpaceError, match=r"speed has (early|second)="):
            Speed(early=early, second=second, target=target)
    with pytest.raises(OutpaceError, match="accepted are loops 1 to 3 of 4"):
        Speed(early=4, target=target)
    with pytest.raises(OutpaceError, match="looped models"):
        Speed(target=TableTarget.random())  # type: ignore[arg-type]
    single = table(1, 0.5)
    with pytest.raises(OutpaceError, match="looped models"):
        Speed(target=single)
    with pytest.raises(OutpaceError, match="draft=Recycling, accepted are drafters that read nothing but"):
        Speed(draft=Recycling(target=target), target=target)
    with pytest.raises(OutpaceError, match="accepted is match"):
        loop_of(target, Speed(target=target), TopK())
    with pytest.raises(OutpaceError, match="single loops"):
        loop_of(TableTarget.random(), Speed(target=target), Match())


@pytest.mark.parametrize("agreement", [0.0, 0.5, 1.0])
def test_what_pays_is_found_while_the_text_is_written(agreement: float) -> None:
    """By the clock, so that any choice may come out; the tokens are the same, and choices are made."""
    target, request = table(4, agreement, context_length=800), Request([1, 2], SAMPLINGS[1], 700)
    drafter = Speed(target=target)
    assert drafter.guesses(1) == (1, 2, 3)
    assert run(target, drafter, request).token_ids == plain(request, context_length=800).token_ids
    assert len(drafter.guesses(1)) <= 2


@pytest.mark.parametrize("kind", [CacheFull, OutpaceError])
@pytest.mark.parametrize("at", range(3, 14))
def test_a_pass_that_fails_beside_prompts_that_are_read(kind: type[Exception], at: int) -> None:
    """What was read in the same step stays read, and no row loses or doubles a token."""

    class Full(LoopedTable):
        traits = Traits(max_nodes=200, chunk=64)  # prompts are read beside running rows
        calls = 0

        def advance(self, passes: Sequence[Any], heads: Any = None) -> Any:
            self.calls += 1
            if self.calls == at:
                raise kind("full for a moment")
            return super().advance(passes, heads)

    target = Full.of(4, 0.8, vocab_size=VOCAB_SIZE, order=2, seed=3, context_length=96)
    engine = Engine(target, Speed(early=1, target=target), Match())
    requests = [Request([n, 2, 3, n], Sampling(), 25) for n in range(6)]
    jobs = []
    for request in requests:
        jobs.append(engine.add(request))
        for _ in range(3):
            engine.step()
    while engine.busy:
        engine.step()
    assert [job.result and job.result.token_ids for job in jobs] == [plain(r).token_ids for r in requests]


class Failing(LoopedTable):
    """Every so many passes fail."""

    every = 0
    tried = 0

    def advance(self, passes: Sequence[Any], heads: Any = None) -> Any:
        self.tried += 1
        if self.tried % self.every == 0:
            raise OutpaceError("a failure of the moment")
        return super().advance(passes, heads)


@pytest.mark.parametrize("every", [1, 2, 3, 5])
@pytest.mark.parametrize("num_rows", [2, 3, 5])
def test_rows_get_on_although_passes_keep_failing(every: int, num_rows: int) -> None:
    """Each time that what they share fails, whole calls give each of them a token."""
    target: Any = Failing.of(4, 0.8, vocab_size=VOCAB_SIZE, order=2, seed=3, context_length=96)
    target.every = every
    engine = Engine(target, Speed(early=1, draft=NGram(), target=target), Match())
    requests = [Request([n, 2], SAMPLINGS[n % 3], 12 + n) for n in range(num_rows)]
    jobs = [engine.add(request) for request in requests]
    for _ in range(4 * max(request.max_tokens for request in requests)):
        engine.step()
    assert not engine.busy
    got = [job.result for job in jobs]
    # The last one left fails with what nobody else shares.
    done = [(one, request) for one, request in zip(got, requests, strict=True) if one is not None]
    assert len(done) >= num_rows - 1
    for one, request in done:
        assert one.token_ids == plain(request).token_ids
        assert one.stats.num_passes >= one.stats.target_calls


@pytest.mark.parametrize("num_loops", [2, 4])
@pytest.mark.parametrize("prompt", [[3], [3, 1]])
def test_the_first_token_is_the_prompts(num_loops: int, prompt: list[int]) -> None:
    """Whether a whole call gives it or, behind a prompt of one token, a pipeline."""
    target = table(num_loops, 1.0)
    stats = run(target, Speed(early=1, target=target), Request(prompt, Sampling(), 9)).stats
    assert stats.first_tokens == 1 and stats.prompt_s > 0
    # Afterwards each guess is right, so that a pass ends with a token as soon as R have filled the pipeline.
    assert stats.num_passes == target.passes - (num_loops if len(prompt) == 1 else 0)
