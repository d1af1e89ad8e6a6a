"""The load and the soak of servers, in short: on the tiny model."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from benchmarks import serving, soak
from benchmarks.soak_answers import known
from outpace.models.text import load
from tests import fake_models
from tests.server.living import living, tiny_gguf
from tests.server.tools.templates import TEMPLATES


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


@pytest.fixture
def caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a model whose template takes tools."""
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fake_models, "CHAT_TEMPLATE", TEMPLATES["hermes"])
    return str(tiny_gguf(tmp_path))


def test_a_soak(caller: str) -> None:
    """Two minutes; `make soak` is a longer one of the default model, which judges memory too."""
    with load(caller, threads=1) as model:
        asked = known(model, 20, 24, seed=1)
    found = asyncio.run(soak.soak(caller, asked, seconds=120, threads=1))
    assert found.violations() == [] and len(found.memory) == 2
    ways = {"whole", "streamed", "cancelled", "slow", "stopped", "vanished", "half", "too_long", "wrong"}
    assert found.heard.asked.keys() == ways
    for right in found.heard.right:
        assert right.keys() == {"chat", "texts", "schema", "pattern", "call"}


def test_a_soak_sees_what_is_wrong(caller: str) -> None:
    with load(caller, threads=1) as model:
        asked = [replace(one, texts=["something else"]) for one in known(model, 5, 8)]
    found = asyncio.run(soak.soak(caller, asked, seconds=4, threads=1))
    assert found.heard.wrong and "life 1 has given no right answer" in found.violations()
    bad = soak.Soak(left=2, status=1, log="Traceback")
    assert len(bad.violations()) == 4
