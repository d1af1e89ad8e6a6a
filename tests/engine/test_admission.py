"""Who gets a row, and when: at most so many at once, in order of age, the youngest gives way."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from outpace.core.call import Call
from outpace.core.edits import Edit
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.none import NoDraft
from outpace.engine.engine import Engine, Job
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fakes import Hostile, whole
from tests.native_models import gguf_target

VOCAB_SIZE = 7


class Tight(TableTarget):
    """Room for so many tokens; prompts are read in pieces of 5."""

    traits = Traits(max_nodes=40, chunk=5)
    room = 10**6

    def score(self, calls: Sequence[Call]) -> Any:
        more = sum(len(call.pending) - 1 + call.tree.num_nodes for call in calls)
        if sum(map(len, self._rows.values())) + more > self.room:
            raise CacheFull("the cache is full")
        return super().score(calls)


def table(room: int = 10**6) -> Any:
    made: Any = Tight.random(vocab_size=VOCAB_SIZE, order=2, seed=3)
    made.room = room
    return made


def tokens_alone(request: Request) -> list[int]:
    tokens: list[int] = whole(generate(table(), NoDraft(), Match(), request))[1].token_ids
    return tokens


def test_so_many_hold_rows_and_the_others_wait_in_order_of_age() -> None:
    target = table()
    engine = Engine(target, NoDraft(), Match(), most_rows=2)
    jobs = [engine.add(Request([1 + n % 5], Sampling(), 3 + n % 4)) for n in range(9)]
    assert (engine.num_running, engine.num_waiting) == (0, 9)
    started: list[Job] = []
    while engine.busy:
        engine.step()
        started += [job for job in jobs if job not in started and (job.started or job.result)]
        assert target.num_rows == engine.num_running <= 2
        assert engine.num_running + engine.num_waiting == sum(job.result is None for job in jobs)
    assert started == jobs
    assert all(job.result and job.result.token_ids == tokens_alone(job.output.request) for job in jobs)


def test_who_waits_can_leave_and_a_place_is_taken_at_once() -> None:
    target = table()
    engine = Engine(target, NoDraft(), Match(), most_rows=1)
    first, second, third = (engine.add(Request([n], Sampling(), 9)) for n in (1, 2, 3))
    engine.step()
    engine.cancel(second)
    assert (engine.num_running, engine.num_waiting) == (1, 1)
    engine.cancel(first)
    assert (engine.num_running, engine.num_waiting) == (0, 1)
    engine.step()
    assert third.started and target.num_rows == 1
    engine.close()
    assert not engine.busy and (engine.num_running, engine.num_waiting, target.num_rows) == (0, 0, 0)


@pytest.mark.parametrize("most_rows", [0, -1, 1.5, "2"])
def test_a_bound_is_a_number_of_rows(most_rows: Any) -> None:
    with pytest.raises(OutpaceError, match=r"most_rows is .*, accepted are whole numbers from 1"):
        Engine(table(), NoDraft(), Match(), most_rows=most_rows)


def test_the_younger_do_not_overtake_who_waits_for_memory() -> None:
    target = table(room=40)
    engine = Engine(target, NoDraft(), Match())
    old = [engine.add(Request([n] * 10, Sampling(), 15)) for n in (1, 2)]
    engine.step()
    while engine.num_waiting == 0:
        engine.step()
    assert [job.row is None for job in old] == [False, True]
    young = engine.add(Request([3], Sampling(), 2))
    ends: list[Job] = []
    while engine.busy:
        engine.step()
        ends += [job for job in [*old, young] if job.result and job not in ends]
        assert old[0].result or young.row is None
    assert ends == [old[0], young, old[1]]  # from then on both run
    assert all(job.result and job.result.token_ids == tokens_alone(job.output.request) for job in ends)


def test_room_that_a_cancelled_request_leaves_is_used() -> None:
    target = table(room=40)
    engine = Engine(target, NoDraft(), Match())
    jobs = [engine.add(Request([n] * 10, Sampling(), 19)) for n in (1, 2, 3)]
    engine.step()
    while engine.num_waiting == 0:
        engine.step()
    assert [job.row is None for job in jobs] == [False, False, True]
    engine.cancel(jobs[1])
    engine.step()
    assert jobs[2].row is not None and engine.num_waiting == 0
    engine.close()


class Fails(Exception):
    """A request's own error."""


@pytest.mark.parametrize("seed", range(20))
def test_failures_cancellations_and_a_full_cache_together(seed: int) -> None:
    """A call is made anew row by row when one of it fails; a row that had to leave meanwhile is not asked."""
    rng = random.Random(seed)
    target = table(room=50)
    engine = Engine(target, NoDraft(), Match(), most_rows=rng.choice([None, 2, 5]))

    def failing(after: int) -> Any:
        def edit(text: Sequence[int], path: Sequence[int]) -> Edit | None:
            if len(text) > after:
                raise Fails
            return None

        return edit

    jobs: dict[Job, list[int]] = {}
    cancelled = set()
    for number in range(60):
        if rng.random() < 0.3:
            edit = failing(rng.randrange(30)) if rng.random() < 0.4 else None
            prompt = rng.choices(range(VOCAB_SIZE), k=rng.randrange(1, 20))
            jobs[
                engine.add(Request(prompt, Sampling(1.0, seed=number), rng.randrange(1, 25), edit=edit))
            ] = []
        if jobs and rng.random() < 0.05:
            job = rng.choice([*jobs])
            engine.cancel(job)
            cancelled.add(job)
        for event in engine.step():
            jobs[event.job] += event.tokens
    while engine.busy:
        for event in engine.step():
            jobs[event.job] += event.tokens
    assert target.num_rows == 0
    for job, tokens in jobs.items():
        one = job.output.request
        expected = tokens_alone(Request(one.prompt, one.sampling, one.max_tokens))
        if job.result is None:
            assert job in cancelled or isinstance(job.error, Fails)
            assert tokens == expected[: len(tokens)]
        else:
            assert tokens == job.result.token_ids == expected


def test_what_a_text_takes_to_be_read_again_is_counted(tmp_path: Path) -> None:
    """All calls of a request that ran alone at the end are in its times."""
    target: Any = gguf_target(tmp_path, context_length=64, cache_tokens=64, threads=1)
    target.traits = Traits(max_nodes=512, chunk=8)
    engine = Engine(target, NoDraft(), Match())
    engine.add(Request([1, 2] * 11, Sampling(), 20))
    second = engine.add(Request([5] * 20, Sampling(), 20))
    while second.row is not None or not second.begun:
        engine.step()
    times, step = [], engine._loop

    def timed(*arguments: Any) -> Any:
        found = step(*arguments)
        times.append((second.row, found[2].score_s))
        return found

    engine._loop = timed
    before = second.output.stats.score_s
    while engine.busy:
        engine.step()
    own = sum(seconds for row, seconds in times if row is not None)
    assert len(second.output.tokens) == 40 and own > 0
    assert second.output.stats.score_s - before == pytest.approx(own)


def test_who_had_to_leave_comes_before_those_who_never_had_a_row() -> None:
    target = table(room=40)
    engine = Engine(target, NoDraft(), Match(), most_rows=2)
    jobs = [engine.add(Request([n] * 10, Sampling(), 15)) for n in (1, 2, 3, 4)]
    while jobs[0].result is None:
        engine.step()
    assert engine.num_waiting == 3
    engine.step()
    assert [job.row is None for job in jobs] == [True, False, False, True]
    engine.close()


def test_a_row_that_has_left_is_not_asked_again_by_itself() -> None:
    """One fails, so that each is asked alone, with more drafts: for these the cache is too small."""
    target = table(room=50)
    target.traits = Traits(max_nodes=60)

    def draft(ask: Ask, rng: random.Random) -> TokenTree:
        return TokenTree.chain(ask.root, [0] * (30 if ask.budget > 20 and ask.position < 15 else 0))

    engine = Engine(target, Hostile(draft), Match())

    def edit(text: Sequence[int], path: Sequence[int]) -> Edit | None:
        if len(text) > 10:
            raise Fails
        return None

    prompts = [[1], [2], [3]]
    edits = [None, edit, None]
    jobs = [engine.add(Request(p, Sampling(), 45, edit=e)) for p, e in zip(prompts, edits, strict=True)]
    while engine.busy:
        engine.step()
    assert isinstance(jobs[1].error, Fails) and target.num_rows == 0
    for job in (jobs[0], jobs[2]):
        assert job.result is not None and job.result.token_ids == tokens_alone(job.output.request)
