"""Rows that are kept for prompts which begin like texts before: the same answers, and less to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.call import Call, Prompt, Source
from outpace.core.contracts import Drafter, Target
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.traits import Traits
from outpace.core.turns import turns_of
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.engine import Engine, Job
from outpace.engine.generate import generate
from outpace.engine.prefixes import Prefixes, prefixes_of
from outpace.engine.request import Generation, Request
from outpace.pricing.pace import Pace
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain
from tests.fakes import hostile, whole
from tests.strategies import samplings

VOCAB_SIZE = 7


class Counting(TableTarget):
    """It counts what is read, in pieces of 5, and has room for `cache_tokens`: rows share nothing."""

    traits = Traits(max_nodes=40, chunk=5)
    num_read = 0
    cache_tokens = 2**31

    def score(self, calls: Sequence[Call]) -> Any:
        self._check_room(sum(len(call.pending) - 1 + call.tree.num_nodes for call in calls))
        self.num_read += sum(len(call.pending) for call in calls)
        return super().score(calls)

    def fork_at(self, row: int, length: int) -> int:
        self._check_room(length)
        return super().fork_at(row, length)

    def _check_room(self, more: int) -> None:
        if sum(map(len, self._rows.values())) + more > self.cache_tokens:
            raise CacheFull("the cache is full")


def table(kind: type[TableTarget] = Counting, *, room: int | None = None, **options: Any) -> Any:
    made: Any = kind.random(vocab_size=VOCAB_SIZE, order=3, seed=3, **options)
    if room is not None:
        made.cache_tokens = room
    return made


def engine_on(target: Target, drafter: Drafter | None = None, **options: Any) -> tuple[Engine, Prefixes]:
    """With prefixes of three tokens and more."""
    prefixes = prefixes_of(target, least_tokens=3, **options)
    assert prefixes is not None
    return Engine(target, drafter or NoDraft(), Match(), prefixes=prefixes), prefixes


def run(engine: Engine, *requests: Request) -> list[Job]:
    """Side by side, to the end."""
    jobs = [engine.add(one) for one in requests]
    while engine.busy:
        engine.step()
    return jobs


def answer(engine: Engine, request: Request) -> Generation:
    (job,) = run(engine, request)
    assert job.error is None and job.result is not None
    return job.result


def said(generation: Generation) -> tuple[Any, ...]:
    """All that must not depend on who has read the prompt."""
    one = generation
    return one.token_ids, one.finish_reason, one.logprobs, one.prompt_tokens, one.stats.completion_tokens


def alone(target: Target, request: Request) -> Generation:
    result: Generation = whole(generate(target, NoDraft(), Match(), request))[1]
    return result


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "none": NoDraft,
    "ngram": NGram,
    "everything": lambda: hostile(VOCAB_SIZE)["everything"],
    "small_model": lambda: SmallModel.of(table(TableTarget), tree=Chain(length=3)),
}
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=14)


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(DRAFTERS)),
    turns=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), TOKENS), min_size=1, max_size=10),
    system=TOKENS,
    sampling=samplings(),
    eos_ids=st.frozensets(st.integers(0, VOCAB_SIZE - 1), max_size=1),
    most=st.integers(0, 120),
    room=st.sampled_from([None, 60, 200]),
    beside=st.booleans(),
)
def test_conversations_have_the_answers_of_requests_alone(
    name: str,
    turns: list[tuple[int, int, list[int]]],
    system: list[int],
    sampling: Sampling,
    eos_ids: frozenset[int],
    most: int,
    room: int | None,
    beside: bool,
) -> None:
    """A turn goes on from a conversation's text, or from an earlier place of it, alone or beside the next."""
    target = table(room=room, eos_ids=eos_ids)
    engine, prefixes = engine_on(target, DRAFTERS[name](), most_tokens=most)
    texts = {number: list(system) for number in range(3)}
    waiting: list[tuple[int, Request]] = []
    for number, back, message in turns:
        texts[number] = [*texts[number][: max(1, len(texts[number]) - back)], *message][:40]
        waiting.append((number, Request(texts[number], sampling, 9, logprobs=2)))
        if beside and len(waiting) < 2:
            continue
        jobs = run(engine, *(one for _, one in waiting))
        for (talk, one), job in zip(waiting, jobs, strict=True):
            if job.error is not None:
                assert isinstance(job.error, CacheFull) and room == 60 and len(one.prompt) > 5
                continue
            assert job.result is not None
            assert said(job.result) == said(alone(table(TableTarget, eos_ids=eos_ids), one))
            assert 0 <= job.result.stats.cached_tokens < len(one.prompt)
            texts[talk] = [*one.prompt, *job.result.token_ids]
        waiting = []
        assert prefixes.num_tokens <= most and target.num_rows == prefixes.num_rows
    engine.close()
    assert target.num_rows == prefixes.num_rows == 0


def test_a_second_turn_reads_what_is_new() -> None:
    target = table()
    engine, prefixes = engine_on(target)
    first = Request([n % VOCAB_SIZE for n in range(23)], max_tokens=9)
    one = answer(engine, first)
    assert one.stats.cached_tokens == 0 and target.num_read == 23 + 8
    assert (prefixes.num_rows, prefixes.num_tokens) == (1, 23 + 8)  # the last token has not been read
    target.num_read = 0
    text = [*first.prompt, *one.token_ids]
    two = answer(engine, Request([*text, 5, 5, 5, 5], max_tokens=4))
    assert (two.stats.cached_tokens, two.stats.prompt_tokens, two.prompt_tokens) == (31, 36, 36)
    assert target.num_read == 5 + 3
    # Of a text that goes on otherwise what it has in common, and of one that is known all but the last token.
    other = [(token + 1) % VOCAB_SIZE for token in text[17:]]
    assert answer(engine, Request([*text[:17], *other], max_tokens=1)).stats.cached_tokens == 17
    assert answer(engine, Request(text, max_tokens=1)).stats.cached_tokens == 31
    assert answer(engine, Request(text[:20], max_tokens=1)).stats.cached_tokens == 19
    assert answer(engine, Request(text[:3], max_tokens=1)).stats.cached_tokens == 0  # two are too few
    plain = Engine(target, NoDraft(), Match())
    target.num_read = 0
    assert answer(plain, Request(text, max_tokens=1)).stats.cached_tokens == 0 and target.num_read == 32


def test_a_text_that_another_begins_with_says_nothing_more() -> None:
    target = table()
    engine, prefixes = engine_on(target)
    text = [n % VOCAB_SIZE for n in range(20)]
    for prompt, lengths in ([text[:9], [9]], [text, [20]], [text[:12], [20]], [[3] * 6, [20, 6]]):
        answer(engine, Request(prompt, max_tokens=1))
        assert prefixes.num_rows == len(lengths) == target.num_rows
        assert prefixes.num_tokens == sum(lengths)


def test_who_was_used_least_recently_leaves_first() -> None:
    target = table()
    engine, prefixes = engine_on(target, most_tokens=30)

    def cached(token: int, last: int = 0) -> int:
        return answer(engine, Request([token] * 9 + [last], max_tokens=1)).stats.cached_tokens

    assert [cached(token) for token in (1, 2, 3)] == [0, 0, 0] and prefixes.num_tokens == 30
    assert cached(1) == 9  # the same again: 1 is the youngest now
    assert cached(4) == 0 and prefixes.num_tokens == 30
    assert cached(2) == 0  # it left for 4, and 3 for it
    assert [cached(token) for token in (1, 4, 2)] == [9, 9, 9] and cached(3) == 0
    long = Request([5] * 31, max_tokens=1)
    answer(engine, long)  # more than may be parked: nobody leaves for it
    assert prefixes.num_tokens == 30 and cached(3) == 9
    engine.close()
    assert target.num_rows == prefixes.num_tokens == 0
    assert cached(3) == 0  # it may be used again


def test_a_row_that_serves_another_text_is_used() -> None:
    target = table()
    engine, prefixes = engine_on(target, most_tokens=30)

    def cached(*prompt: int) -> int:
        return answer(engine, Request(prompt, max_tokens=1)).stats.cached_tokens

    assert cached(*[1] * 9, 0) == cached(*[2] * 9, 0) == 0
    assert cached(*[1] * 9, 5) == 9 and prefixes.num_rows == 3
    assert cached(*[3] * 9, 0) == 0 and prefixes.num_rows == 3  # 2 has left for it
    assert cached(*[1] * 9, 0, 4) == 10 and cached(*[2] * 9, 0) == 0


def test_by_default_parked_rows_take_half_of_the_cache() -> None:
    target = table(room=100)
    engine, prefixes = engine_on(target)
    for token in range(VOCAB_SIZE):
        answer(engine, Request([token] * 20, max_tokens=1))
    assert prefixes.num_tokens == 40
    for options, message in (
        ({"most_tokens": -1}, "most_tokens is -1, accepted are whole numbers from 0"),
        ({"least_tokens": 0}, "least_tokens is 0, accepted are whole numbers from 1"),
        ({"least_tokens": "3"}, "least_tokens is '3', accepted are whole numbers"),
    ):
        with pytest.raises(OutpaceError, match=message):
            prefixes_of(target, **options)


def test_a_row_that_runs_serves_too() -> None:
    """What others of the same beginning have read by then need not be read again."""
    target = table()
    engine, _ = engine_on(target)
    prompt = [n % VOCAB_SIZE for n in range(13)]
    first = engine.add(Request(prompt, max_tokens=20))
    engine.step()  # five tokens
    second = engine.add(Request([*prompt, 6], max_tokens=20))
    while not first.begun:
        engine.step()
    third = engine.add(Request([*prompt, 6], max_tokens=20))
    run(engine)
    cached = []
    for job in (first, second, third):
        assert job.result is not None
        assert said(job.result) == said(alone(table(TableTarget), job.output.request))
        cached.append(job.result.stats.cached_tokens)
    assert cached == [0, 5, 13]


@pytest.mark.parametrize("begun", [False, True])
def test_what_a_cancelled_request_has_read_stays(begun: bool) -> None:
    target = table()
    engine, prefixes = engine_on(target)
    prompt = [n % VOCAB_SIZE for n in range(23)]
    job = engine.add(Request(prompt, max_tokens=20))
    for _ in range(9 if begun else 2):
        engine.step()
    assert job.begun == begun
    engine.cancel(job)
    engine.cancel(job)
    held = len(job.output.tokens) - 1 if begun else 10
    assert target.num_rows == prefixes.num_rows == 1 and prefixes.num_tokens == held
    two = answer(engine, Request([*job.output.tokens, 1], max_tokens=3))
    assert two.stats.cached_tokens == held
    assert said(two) == said(alone(table(TableTarget), Request([*job.output.tokens, 1], max_tokens=3)))


def test_a_request_that_failed_leaves_nothing() -> None:
    target = table()
    engine, prefixes = engine_on(target)

    def edit(text: Sequence[int], path: Sequence[int]) -> None:
        if len(text) > 12:
            raise ArithmeticError("failed")

    (job,) = run(engine, Request([1, 2] * 5, max_tokens=20, edit=edit))
    assert isinstance(job.error, ArithmeticError) and target.num_rows == prefixes.num_rows == 0


def test_parked_rows_leave_before_a_request_waits() -> None:
    target = table(room=60)
    engine, prefixes = engine_on(target, most_tokens=60)
    for token in (1, 2):
        answer(engine, Request([token] * 20, max_tokens=1))
    assert prefixes.num_tokens == 40
    # Together these need 44, and the parked rows one after the other.
    jobs = [engine.add(Request([token] * 16, Sampling(), 6)) for token in (3, 4)]
    waited = 0
    while engine.busy:
        engine.step()
        waited += engine.num_waiting
        assert engine.num_running + engine.num_waiting == sum(job.result is None for job in jobs)
    assert waited == 0 and all(job.result is not None for job in jobs)


def test_a_fork_that_has_no_room_takes_that_of_other_parked_rows() -> None:
    target = table(room=60)
    engine, prefixes = engine_on(target, most_tokens=60)
    for token, size in ((1, 20), (2, 16), (3, 20)):
        answer(engine, Request([token] * size, max_tokens=1))
    assert prefixes.num_tokens == 56
    assert answer(engine, Request([2] * 15 + [0], max_tokens=1)).stats.cached_tokens == 15
    assert prefixes.num_rows == 3 and prefixes.num_tokens == 20 + 16 + 16  # the first has left
    target.cache_tokens = 30
    engine.close()
    answer(engine, Request([2] * 18, max_tokens=1))
    two = answer(engine, Request([2] * 15 + [0] * 9, max_tokens=1))  # no room for both: the old one leaves
    assert two.stats.cached_tokens == 0 and prefixes.num_rows == 1


def test_two_engines_on_one_target_leave_each_other_alone() -> None:
    """What one has parked the other may need the memory of, and has it."""
    target = table(room=90)
    first, parked = engine_on(target, most_tokens=90)
    second, _ = engine_on(target, NGram())
    plain = Engine(target, NGram(), Match())
    prompt = [n % VOCAB_SIZE for n in range(25)]
    answer(first, Request(prompt, max_tokens=1))
    assert answer(second, Request(prompt, max_tokens=1)).stats.cached_tokens == 0
    assert answer(first, Request([*prompt, 1], max_tokens=1)).stats.cached_tokens == 25
    second.close()
    assert parked.num_rows == 1 == target.num_rows
    for other in (second, plain):
        answer(first, Request([*prompt, 1], max_tokens=1))
        request = Request([1, 2] * 37, max_tokens=9)
        assert said(answer(other, request)) == said(alone(table(TableTarget), request))
        assert parked.num_rows == 0
        other.close()
    jobs = [engine.add(Request(prompt[:8], Sampling(), 20)) for engine in (first, second) for _ in range(2)]
    while first.busy or second.busy:
        first.step()
        second.step()
    expected = said(alone(table(TableTarget), Request(prompt[:8], Sampling(), 20)))
    assert all(job.result is not None and said(job.result) == expected for job in jobs)
    first.close()
    second.close()
    assert target.num_rows == 0


class Silent:
    """A source that says nothing."""

    ids = None
    key = "silent"


class Written(Counting):
    """A table that takes sources, and remembers them."""

    sources: tuple[Source | None, ...] = ()

    def open(self, source: Source | None = None) -> int:
        self.sources += (source,)
        return super().open()


def test_prompts_with_a_source_share_nothing() -> None:
    target = table(Written)
    engine, prefixes = engine_on(target)
    source = Silent()
    for prompt in (Prompt([1] * 9, source), Prompt([1] * 9), Prompt([1] * 9, source)):
        answer(engine, Request(prompt, max_tokens=1))
    assert target.sources == (source, None, source) and prefixes.num_rows == 1
    jobs = [engine.add(Request(Prompt([2] * 9, source), max_tokens=9))]
    engine.step()
    engine.step()
    jobs.append(engine.add(Request([2] * 9, max_tokens=2)))
    run(engine)
    assert [job.output.stats.cached_tokens for job in jobs] == [0, 0]


def test_targets_that_cannot_cut_rows_do_without() -> None:
    class Uncut:
        def fork(self, row: int) -> int:
            raise NotImplementedError

    assert prefixes_of(Uncut()) is None  # type: ignore[arg-type]


class Closed(Counting):
    """Closed: any other use but `free` is refused."""

    closed = False

    def length(self, row: int) -> int:
        if self.closed:
            raise OutpaceError("the model is closed")
        return super().length(row)


def test_a_closed_target_gets_its_rows_back() -> None:
    target = table(Closed)
    engine, _ = engine_on(target)
    answer(engine, Request([1] * 9, max_tokens=1))
    engine.add(Request([2] * 9, max_tokens=9))
    engine.step()
    target.closed = True
    engine.close()
    assert target.num_rows == 0


def test_rows_are_parked_in_a_turn_of_the_target() -> None:
    """Whoever cancels, in the midst of another's step: nothing happens before its end."""
    target = table()
    engine, prefixes = engine_on(target)
    job = engine.add(Request([1] * 9, max_tokens=9))
    engine.step()
    with turns_of(target):
        engine.cancel(job)
        assert prefixes.num_rows == 0 and target.num_rows == 1
    assert prefixes.num_rows == 1 == target.num_rows


def test_a_pace_is_told_that_the_drafter_has_read_nothing() -> None:
    target = table()
    drafter = SmallModel.of(table(TableTarget), tree=Chain(length=3))
    prefixes = prefixes_of(target, least_tokens=3)
    lags = []

    class Told(Pace):
        def plan(self, asks: Any, *, lag: int) -> Any:
            lags.append((lag, [len(ask.unread) for ask in asks]))
            return super().plan(asks, lag=lag)

    engine = Engine(target, drafter, Match(), pace=Told(drafter.traits), prefixes=prefixes)
    one = answer(engine, Request([1, 2, 3, 4] * 5, max_tokens=5))
    lags.clear()
    text = [*[1, 2, 3, 4] * 5, *one.token_ids]
    answer(engine, Request([*text, 1, 2], max_tokens=2))
    assert lags[0] == (27, [2])
