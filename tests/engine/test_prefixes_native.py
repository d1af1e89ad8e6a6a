"""Conversations on tiny native models whose rows share pages: bits, memory, and what drafters make of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.sampling import Sampling
from outpace.drafters.none import NoDraft
from outpace.engine.engine import Engine, Job
from outpace.engine.generate import generate
from outpace.engine.prefixes import Prefixes, prefixes_of
from outpace.engine.request import Generation, Request
from outpace.pricing.pace import Pace
from outpace.rules.match import Match
from outpace.targets.native import NativeTarget
from tests.contract.rows import make_drafter, native_looped
from tests.fakes import whole
from tests.native_models import gguf_target

DRAFTS = [
    "none",
    "ngram",
    "small_model:model=noisy",
    "swift:window=4,trials=9,ratio=0.5,enough=1",
    "early_exit:path=ADAPTER tree=chain:length=3",
    "medusa:path=MEDUSA",
    "eagle:path=EAGLE",
]
SAMPLINGS = [Sampling(), Sampling(temperature=1.0, seed=5)]


@pytest.fixture(scope="module", params=["roomy", "tight"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Prompts are read in pieces of 32; the tight one has 14 pages, for a text and a half."""
    made = gguf_target(
        tmp_path_factory.mktemp("model"),
        context_length=160,
        threads=1,
        cache_tokens=None if request.param == "roomy" else 14 * 16,
    )
    made.traits = replace(made.traits, chunk=32)
    yield made
    assert made.cache_bytes == 0


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    """The same model, which reads every prompt from its beginning."""
    return gguf_target(tmp_path_factory.mktemp("alone"), context_length=160, threads=1)


def said(one: Generation | None) -> tuple[Any, ...]:
    assert one is not None
    return one.token_ids, one.finish_reason, one.logprobs, one.prompt_tokens


def plain(target: Any, request: Request) -> tuple[Any, ...]:
    return said(whole(generate(target, NoDraft(), Match(), request))[1])


@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize("paced", [False, True])
def test_conversations_side_by_side(target: Any, alone: NativeTarget, draft: str, paced: bool) -> None:
    """Three that begin alike take their turns when they like, some are cancelled, and memory is short."""
    rng = random.Random(draft + str(paced))
    drafter, prefixes = make_drafter(draft, target), prefixes_of(target)
    engine = Engine(
        target, drafter, Match(), pace=Pace(drafter.traits) if paced else None, prefixes=prefixes, most_rows=2
    )
    system = rng.choices(range(8), k=40)
    texts = [list(system) for _ in range(3)]
    running: dict[int, Job] = {}
    cached = ended = 0
    while ended < 9 or running:
        for talk in range(3):
            if talk not in running and ended < 9 and rng.random() < 0.4:
                texts[talk] = [
                    *(texts[talk] if len(texts[talk]) < 80 else system),
                    *rng.choices(range(8), k=9),
                ]
                request = Request(texts[talk], rng.choice(SAMPLINGS), 12, logprobs=1)
                running[talk] = engine.add(request)
        engine.step()
        for talk, job in [*running.items()]:
            if job.result is None and rng.random() < 0.02:
                engine.cancel(job)
            elif job.result is None:
                assert job.error is None
                continue
            else:
                assert said(job.result) == plain(alone, job.output.request)
                cached += job.result.stats.cached_tokens
                ended += 1
            texts[talk] = list(job.output.tokens)
            del running[talk]
    assert cached > 0
    engine.close()
    assert target.cache_bytes == 0


def test_pages_are_shared_and_the_rest_alone_is_read(alone: NativeTarget, tmp_path: Path) -> None:
    target: Any = gguf_target(tmp_path, context_length=160, threads=1)
    prefixes = prefixes_of(target)
    assert isinstance(prefixes, Prefixes)
    engine = Engine(target, NoDraft(), Match(), prefixes=prefixes)
    sizes, score = list[int](), target.score
    target.score = lambda calls: sizes.append(sum(len(call.pending) for call in calls)) or score(calls)
    text = np.random.default_rng(0).integers(0, 300, 70).tolist()
    first = engine.add(Request(text, max_tokens=11))
    while engine.busy:
        engine.step()
    assert first.result is not None and sizes == [70] + [1] * 10
    page_bytes, sizes[:] = target.cache_bytes // 5, []  # of 80 tokens
    request = Request([*text, *first.result.token_ids, 1, 2, 3], max_tokens=3)
    second = engine.add(request)
    engine.step()
    assert target.cache_bytes == 6 * page_bytes and sizes == [4]  # five pages are shared
    while engine.busy:
        engine.step()
    assert said(second.result) == plain(alone, request) and sizes == [4, 1, 1]
    assert second.result is not None and second.result.stats.cached_tokens == 80
    third = engine.add(Request([*text[:50], *[7] * 9], max_tokens=1))
    engine.step()
    assert said(third.result) == plain(alone, third.output.request) and sizes[3:] == [9]
    engine.close()
    assert target.cache_bytes == 0


def test_a_row_of_a_looped_model_that_is_cut_goes_on_in_loops(tmp_path: Path) -> None:
    """All loops' keys and values come with it."""
    target: Any = native_looped(tmp_path)
    engine = Engine(
        target, make_drafter("speed:early=1", target), Match(), prefixes=prefixes_of(target, least_tokens=4)
    )
    text = [1, 2, 3, 1, 2, 3, 1]
    for sampling, cached in zip([*SAMPLINGS, SAMPLINGS[1]], [0, 13, 21], strict=True):
        job = engine.add(Request(text, sampling, 7))
        while engine.busy:
            engine.step()
        assert said(job.result) == plain(target, job.output.request)
        assert job.result is not None and job.result.stats.cached_tokens == cached
        text = [*job.output.tokens, 5]
    engine.close()
    assert target.cache_bytes == 0


def test_a_parked_row_leaves_for_another_engine_that_needs_the_memory(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, context_length=160, cache_tokens=160, threads=1)
    prefixes = prefixes_of(target)
    assert prefixes is not None
    engine = Engine(target, NoDraft(), Match(), prefixes=prefixes)
    job = engine.add(Request([1] * 70, max_tokens=3))
    while engine.busy:
        engine.step()
    assert job.result is not None and prefixes.num_rows == 1
    request = Request([2] * 100, max_tokens=3)
    assert plain(target, request) and prefixes.num_rows == 0
    engine.close()
