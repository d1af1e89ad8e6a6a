"""One model in several threads: streams that are read, closed and forgotten while others run, and asyncio."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import cast

import pytest

from outpace.files import LoadedModel
from outpace.models.text import Model
from outpace.targets.native import NativeTarget
from outpace.targets.table import TableTarget
from tests.fakes import Letters
from tests.native_models import gguf_target

LETTERS = "abcdefgh"
PROMPTS = ["abcabcab", "d", "efgefg", "habc", "gg", "bcd"]


@pytest.fixture(scope="module", autouse=True)
def busy() -> Iterator[None]:
    """Threads lose the processor as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module", params=["table", "native"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    target: TableTarget | NativeTarget = TableTarget.random(vocab_size=len(LETTERS), seed=6, spread=3.0)
    if request.param == "native":
        target = gguf_target(tmp_path_factory.mktemp("model"), "llama", "Q4_1", context_length=64)
    letters = Letters((LETTERS * 999)[: target.vocab_size])
    loaded = SimpleNamespace(config=None, weights=None, tokenizer=letters, chat=None)
    return Model(cast("LoadedModel", loaded), target, name="letters", num_threads=1)


@pytest.fixture(scope="module")
def alone(model: Model) -> dict[str, list[int]]:
    """What each prompt gives with nobody else about."""
    return {prompt: model.generate(prompt, draft="none", max_tokens=25).token_ids for prompt in PROMPTS}


def test_every_thread_has_the_answer_of_one(model: Model, alone: dict[str, list[int]]) -> None:
    drafts = ["none", "ngram", "suffix", "lookahead"]
    jobs = [(prompt, draft) for prompt in PROMPTS for draft in drafts] * 2

    def answer(job: tuple[str, str]) -> list[int]:
        return model.generate(job[0], draft=job[1], max_tokens=25).token_ids

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, jobs)) == [alone[prompt] for prompt, _ in jobs]


def test_streams_end_in_any_thread_and_leave_no_row(model: Model, alone: dict[str, list[int]]) -> None:
    """Some are read to the end, some closed by another thread, some left to the garbage collector."""

    def work(number: int) -> None:
        for turn in range(6):
            prompt = PROMPTS[(number + turn) % len(PROMPTS)]
            stream = model.stream(prompt, max_tokens=25)
            if turn % 3 == 0:
                assert "".join(stream) and stream.result.token_ids == alone[prompt]
                continue
            next(stream)
            if turn % 3 == 1:
                closer = threading.Thread(target=stream.close)
                closer.start()
                closer.join()
                assert list(stream) == []
            del stream

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    gc.collect()
    target = model.target
    assert (
        target.num_rows if isinstance(target, TableTarget) else cast("NativeTarget", target).cache_bytes
    ) == 0


def test_one_stream_read_by_several_threads_gives_every_piece_once(model: Model) -> None:
    wanted = "".join(model.stream(PROMPTS[0], max_tokens=25))
    stream = model.stream(PROMPTS[0], max_tokens=25)
    with ThreadPoolExecutor(3) as pool:
        pieces = list(pool.map(lambda _: list(stream), range(3)))
    assert sorted("".join(map("".join, pieces))) == sorted(wanted)
    assert stream.result.text == wanted


def test_asyncio_reads_streams_side_by_side(model: Model, alone: dict[str, list[int]]) -> None:
    async def read(prompt: str) -> tuple[str, list[int]]:
        stream = model.stream(prompt, max_tokens=25)
        text = "".join([piece async for piece in stream])
        return text, stream.result.token_ids

    async def all_of_them() -> list[tuple[str, list[int]]]:
        return await asyncio.gather(*map(read, PROMPTS))

    for (text, tokens), prompt in zip(asyncio.run(all_of_them()), PROMPTS, strict=True):
        assert tokens == alone[prompt]
        assert text == model.generate(prompt, max_tokens=25).text


def test_a_cancelled_reader_lets_others_go_on(model: Model, alone: dict[str, list[int]]) -> None:
    async def main() -> list[int]:
        given_up = model.stream(PROMPTS[0], max_tokens=25)

        async def read() -> None:
            async for _ in given_up:
                await asyncio.sleep(60)

        task = asyncio.create_task(read())
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        given_up.close()
        return (await asyncio.to_thread(model.generate, PROMPTS[1], max_tokens=25)).token_ids

    assert asyncio.run(main()) == alone[PROMPTS[1]]
