"""The load and the soak of servers, in short: on the tiny model."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx2
import pytest

from benchmarks import serving, soak
from outpace.models.text import load
from tests.server.living import living, tiny_gguf


def test_a_load_counts_all_tokens(tmp_path: Path) -> None:
    with living(tmp_path) as server:
        url = server.url.removesuffix("/v1")
        server.house.served["default"] = server.house.served.pop("tiny")
        found = asyncio.run(serving.load(url, ["a", "b", "c"], clients=2, max_tokens=5))
        assert found.tokens_per_s > 0 and 0 < found.first_s < 60
        count, _ = asyncio.run(_ask(url))
        assert count == 7


async def _ask(url: str) -> tuple[int, float]:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        return await serving.ask(client, "a", 7)


def test_a_table_compares_with_the_first() -> None:
    loads = {
        "plain": {1: [serving.Load(10, 0.5), serving.Load(20, 0.7), serving.Load(30, 0.6)]},
        "drafted": {1: [serving.Load(20, 0.5), serving.Load(30, 0.5), serving.Load(30, 0.5)]},
    }
    assert serving.table(loads).splitlines()[2:] == [
        "| plain   |       1 |     20.0 |  1.00 |         0.600 |",
        "| drafted |       1 |     30.0 |  1.50 |         0.500 |",
    ]


def test_growth_is_that_behind_the_first_third() -> None:
    assert soak.Soak(memory=[[1, 50, 100, 100, 100, 104]]).growths() == pytest.approx([0.04])


def test_a_soak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m benchmarks.soak --minutes 30` is the long one, which also judges the growth of memory."""
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    path = str(tiny_gguf(tmp_path))
    with load(path, threads=1) as model:
        known = [(body, soak.expected(model, body)) for body in soak.bodies(random.Random(1), 20, 24)]
    found = asyncio.run(soak.soak(path, known, seconds=30, threads=1))
    assert found.wrong == [] and found.left == 0
    assert len(found.memory) == 2
    assert {"whole", "streamed", "cancelled", "slow", "too_long", "no_json"} == found.asked.keys()


def test_a_soak_sees_a_wrong_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    path = str(tiny_gguf(tmp_path))
    known = [(body, "something else") for body in soak.bodies(random.Random(1), 4, 8)]
    assert asyncio.run(soak.soak(path, known, seconds=4, threads=1)).wrong
