"""Requests that join, leave, fail and are cancelled while others run: each has what it has alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.call import Call
from outpace.core.contracts import Drafter
from outpace.core.edits import Edit
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.steps import Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.model.small_model import SmallModel
from outpace.drafters.none import NoDraft
from outpace.engine.engine import FIRST_NODES, PATIENCE, Engine, Job
from outpace.engine.generate import generate
from outpace.engine.request import Request
from outpace.pricing.pace import Pace
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from outpace.trees.chain import Chain
from tests.fakes import Hostile, hostile, whole
from tests.native_models import gguf_target

VOCAB_SIZE = 7


class Narrow(TableTarget):
    """Prompts are read in pieces of 5, and a call has 40 nodes; it writes down the sizes of calls."""

    traits = Traits(max_nodes=40, chunk=5)
    shapes: list[list[tuple[int, int]]]

    def score(self, calls: Sequence[Call]) -> Any:
        self.shapes = [*getattr(self, "shapes", []), [(len(c.pending), c.tree.num_nodes) for c in calls]]
        return super().score(calls)


def target(kind: type[TableTarget] = Narrow, **options: Any) -> Any:
    return kind.random(vocab_size=VOCAB_SIZE, order=2, seed=3, **options)


def request(seed: int, **options: Any) -> Request:
    rng = random.Random(seed)
    prompt = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 2, 5, 6, 11, 30]))]
    sampling = rng.choice([Sampling(), Sampling(temperature=1.0, seed=seed)])
    return Request(prompt, sampling, rng.randrange(1, 30), **options)


def alone(one: Request) -> list[int]:
    tokens: list[int] = whole(generate(target(TableTarget), NoDraft(), Match(), one))[1].token_ids
    return tokens


def run(engine: Engine, jobs: dict[Job, list[int]]) -> None:
    """To the end; `jobs` collects what each got."""
    while engine.busy:
        for event in engine.step():
            jobs[event.job] += event.tokens


class Wide(Narrow):
    """As wide as the native engine."""

    traits = Traits(max_nodes=512, chunk=256)


class Fails(Exception):
    """A request's own error."""


def failing(after: int) -> Any:
    """An edit that fails once the text has grown by so many tokens."""

    def edit(text: Sequence[int], path: Sequence[int]) -> Edit | None:
        if len(text) > after:
            raise Fails(f"after {after}")
        return None

    return edit


DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "none": NoDraft,
    "ngram": NGram,
    "everything": lambda: hostile(VOCAB_SIZE)["everything"],
    "small_model": lambda: SmallModel.of(
        TableTarget.random(vocab_size=VOCAB_SIZE, order=2, seed=3), tree=Chain(length=3)
    ),
}


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("seed", range(6))
def test_in_any_order_each_gives_what_it_gives_alone(name: str, seed: int) -> None:
    rng, model, drafter = random.Random(seed), target(), DRAFTERS[name]()
    engine = Engine(model, drafter, Match(), pace=Pace(drafter.traits) if seed % 2 else None)
    jobs: dict[Job, list[int]] = {}
    requests: dict[Job, Request] = {}
    cancelled: set[Job] = set()
    for number in range(120):
        chance = rng.random()
        if chance < 0.2:
            fails = rng.random() < 0.2
            one = request(number, **({"edit": failing(rng.randrange(20))} if fails else {}))
            job = engine.add(one)
            jobs[job], requests[job] = [], one
        elif chance < 0.25 and jobs:
            job = rng.choice(list(jobs))
            if job.result is None and job.error is None:
                cancelled.add(job)
            engine.cancel(job)
        for event in engine.step():
            assert event.job not in cancelled
            jobs[event.job] += event.tokens
    run(engine, jobs)
    assert model.num_rows == 0
    ended = 0
    for job, one in requests.items():
        expected = alone(Request(one.prompt, one.sampling, one.max_tokens))
        if job in cancelled or one.edit is not None:
            assert jobs[job] == expected[: len(jobs[job])]
            if job.error is not None:
                assert isinstance(job.error, Fails) and job.result is None
                continue
        if job not in cancelled:
            assert job.result is not None and jobs[job] == job.result.token_ids == expected
            ended += 1
    assert ended > 5 and max(sum(p - 1 + n for p, n in shape) for shape in model.shapes) <= 40


def test_prompts_are_read_beside_rows_that_run() -> None:
    model = target()
    engine = Engine(model, NoDraft(), Match())
    jobs = {engine.add(Request([1, 2], Sampling(), 20)): list[int]()}
    for event in engine.step():
        jobs[event.job] += event.tokens
    late = Request([n % VOCAB_SIZE for n in range(18)], Sampling(), 3)
    jobs[engine.add(late)] = []
    run(engine, jobs)
    # Pieces of five, each in a call in which the first row makes a step; the last piece makes one too.
    assert model.shapes[1:5] == [[(1, 1), (5, 1)], [(1, 1), (5, 1)], [(1, 1), (3, 1)], [(1, 1), (5, 1)]]
    assert list(jobs.values()) == [alone(Request([1, 2], Sampling(), 20)), alone(late)]


class First(NoDraft):
    """Keeps the logits behind a prompt, and counts the tokens that it has seen of it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, np.ndarray]] = []

    def observe(self, states: Sequence[None], steps: Sequence[Step]) -> list[None]:
        if len(self.seen) < len(steps):
            self.seen += [(len(one.scores.read("final")) + 1, one.scores.logits([0])) for one in steps]
        return list(states)


@pytest.mark.parametrize("size", [1, 127, 128, 129, 255, 256, 257])
def test_the_last_part_of_a_prompt_is_a_whole_one(tmp_path: Path, size: int) -> None:
    """Drafters see its states. No bit depends on where prompts are cut: here in pieces of 100."""
    model: Any = gguf_target(tmp_path, max_position_embeddings=1024, context_length=1024, threads=1)
    assert model.traits.chunk == 128
    prompt = np.random.default_rng(size).integers(0, model.vocab_size, size).tolist()
    drafter, calls, score = First(), [], model.score
    model.score = lambda some: calls.append([len(call.pending) for call in some]) or score(some)
    whole(generate(model, drafter, Match(), Request(prompt, Sampling(), 1)))
    parts = {129: [1, 128], 255: [127, 128], 256: [128, 128], 257: [128, 1, 128]}.get(size, [size])
    [(seen, logits)] = drafter.seen
    assert calls == [[part] for part in parts] and seen == parts[-1]
    row = model.open()
    for at in range(0, size, 100):
        piece = prompt[at : at + 100]
        scores = score([Call(row, piece, TokenTree.root(piece[-1]))])
        expected = scores.logits(0, [0])
        model.keep([row], [()])
    np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("size", [256, 257, 600])
@pytest.mark.parametrize("running", [1, 14, 15, 27])
def test_beside_rows_that_run_parts_keep_to_the_room_that_is_left(running: int, size: int) -> None:
    """512 nodes, 17 of them for each of these rows, and 16 for drafts behind the last part."""
    model = target(Wide)
    engine = Engine(model, NoDraft(), Match())
    jobs = {engine.add(Request([n % VOCAB_SIZE, 2], Sampling(), 40)): list[int]() for n in range(running)}
    for event in engine.step():
        jobs[event.job] += event.tokens
    late = Request([n % VOCAB_SIZE for n in range(size)], Sampling(), 3)
    jobs[engine.add(late)] = []
    model.shapes = []
    run(engine, jobs)
    room = 512 - 17 * running
    most, last = min(256, room), min(256, room - FIRST_NODES)
    before = size - last
    parts = [*[most] * (before // most), *([before % most] if before % most else []), last]
    assert [shape[running][0] for shape in model.shapes[: len(parts)]] == parts
    assert max(sum(p - 1 + n for p, n in shape) for shape in model.shapes) <= 512
    assert list(jobs.values())[-1] == alone(late)


def prompts_of(sizes: Sequence[int]) -> tuple[Any, Engine, dict[Job, list[int]]]:
    model = target(Wide)
    engine = Engine(model, NoDraft(), Match())
    some = [Request([n % VOCAB_SIZE for n in range(size)], Sampling(), 40) for size in sizes]
    return model, engine, {engine.add(one): list[int]() for one in some}


def test_prompts_share_no_more_than_a_chunk_of_a_call() -> None:
    """Whose prompt is read sees its first token; four of 100 do not wait for each other."""
    model, engine, jobs = prompts_of([100] * 4)
    for begun in (2, 4):
        engine.step()
        assert sum(job.begun for job in jobs) == begun
    assert [[pending for pending, _ in shape] for shape in model.shapes] == [[100, 100], [1, 1, 100, 100]]
    run(engine, jobs)
    assert all(job.result is not None and job.result.token_ids == alone(job.output.request) for job in jobs)


def test_short_prompts_go_first_but_not_for_ever() -> None:
    """Of a long one a chunk is read once it has let others go first so many times."""
    _, engine, jobs = prompts_of([600, *[250] * (PATIENCE + 3)])
    long, *short = jobs
    for number in range(PATIENCE):
        engine.step()
        assert [job.begun for job in short].index(False) == number + 1 and len(long.pending) == 600
    engine.step()
    assert len(long.pending) == 600 - 256 and not long.begun
    assert sum(job.begun for job in short) == PATIENCE
    engine.step()
    assert sum(job.begun for job in short) == PATIENCE + 1
    run(engine, jobs)
    assert all(job.result is not None and job.result.token_ids == alone(job.output.request) for job in jobs)


def test_more_requests_than_a_call_has_places() -> None:
    model = target()
    engine = Engine(model, Hostile(lambda ask, rng: TokenTree.chain(ask.root, [0] * 9)), Match())
    requests = [Request([n % VOCAB_SIZE] * (1 + n % 9), Sampling(), 4) for n in range(60)]
    jobs = {engine.add(one): list[int]() for one in requests}
    run(engine, jobs)
    assert list(jobs.values()) == [alone(one) for one in requests]
    assert max(sum(p - 1 + n for p, n in shape) for shape in model.shapes) <= 40


def test_what_fails_with_others_in_its_call_leaves_them_alone() -> None:
    table = np.zeros((4, 4))
    table[[0, 1, 2], [1, 2, 3]] = 9.0
    table[3] = np.nan
    engine = Engine(TableTarget(table), NoDraft(), Match())
    good, bad = engine.add(Request([1], Sampling(), 2)), engine.add(Request([0], Sampling(), 9))
    run(engine, {good: [], bad: []})
    assert good.result is not None and good.result.token_ids == [2, 3]
    assert bad.result is None and "no token to choose" in str(bad.error)


def test_a_bad_request_is_refused_at_the_door() -> None:
    engine = Engine(target(), NoDraft(), Match())
    with pytest.raises(OutpaceError, match="empty"):
        engine.add(Request([]))
    assert not engine.busy and engine.step() == []


def test_a_full_cache_makes_the_youngest_wait(tmp_path: Path) -> None:
    """Three texts of 32 tokens and pages for two of them: none fails, and the tokens stay."""
    free = gguf_target(tmp_path, context_length=64, threads=1)
    requests = [Request([1 + n, 2, 3, 4], Sampling(temperature=1.0, seed=n), 28) for n in range(3)]
    expected = [whole(generate(free, NoDraft(), Match(), one))[1].token_ids for one in requests]
    (tmp_path / "full").mkdir()
    full = gguf_target(tmp_path / "full", context_length=64, cache_tokens=64, threads=1)
    for drafter in (NoDraft(), NGram()):
        engine = Engine(full, drafter, Match())
        jobs = {engine.add(one): list[int]() for one in requests}
        run(engine, jobs)
        assert [job.error for job in jobs] == [None] * 3
        assert list(jobs.values()) == expected == [job.result.token_ids for job in jobs if job.result]
    engine = Engine(full, NoDraft(), Match())
    holder = full.open()
    full.score([Call.read(holder, [1] * 48)])
    full.keep([holder], [()])
    job = engine.add(requests[0])
    run(engine, {job: []})
    assert "cache of keys and values is full" in str(job.error)
    full.free([holder])


def test_who_has_waited_for_memory_has_a_drafter_that_has_read_nothing(tmp_path: Path) -> None:
    """What the pace is told to be unread is then the whole text, prompt and all."""
    full = gguf_target(tmp_path, context_length=64, cache_tokens=64, threads=1)
    drafter = SmallModel.of(gguf_target(tmp_path, "qwen2", threads=1))
    engine = Engine(full, drafter, Match(), pace=Pace(drafter.traits))
    jobs = [engine.add(Request([1 + n, 2, 3, 4], Sampling(), 28)) for n in range(3)]
    lags, waiting = list[int](), list[Job]()
    while engine.busy and not waiting:
        lags = [job.output.lag for job in jobs]
        engine.step()
        waiting = [job for job in jobs if job.row is None and 4 < len(job.output.tokens) < 32]
    (one,) = waiting
    assert lags[jobs.index(one)] < one.output.lag == len(one.output.tokens)


@pytest.mark.parametrize("kv", ["f16", "f32"])
def test_a_prompts_pieces_beside_running_rows_change_no_bit(tmp_path: Path, kv: str) -> None:
    """The logits behind a prompt are the same whether it was read with others in its calls or alone."""
    model = gguf_target(tmp_path, "llama", "Q4_1", kv=kv, context_length=512, threads=2)
    prompt = np.random.default_rng(0).integers(0, model.vocab_size, 300).tolist()
    seen = []
    for beside in (False, True):
        rows = [model.open(), model.open()]
        for first in range(0, 300, 50 if beside else 300):
            piece = prompt[first : first + (50 if beside else 300)]
            tree = TokenTree([5, 1, 2], [-1, 0, 0])
            calls = [Call.on(rows[1], tree)] if beside else []
            scores = model.score([*calls, Call(rows[0], piece, TokenTree.root(piece[-1]))])
            seen.append(scores.logits(len(calls), [0]))
            model.keep(rows[:1], [()])
        model.free(rows)
    np.testing.assert_array_equal(seen[0], seen[-1])
