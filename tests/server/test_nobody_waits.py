"""Requests that take long to read hold up nobody else."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.models.grammar_tokens import Grammars
from tests.server.living import NAME, Living

TEXT = "/v1/completions"
SHORT = {"prompt": "a", "max_tokens": 2}
MANY = 12  # more than the threads that asyncio has for all


def test_a_long_text_that_becomes_tokens(server: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    served, begun, may = server.house.of(NAME), threading.Event(), threading.Event()

    def slow(*given: Any, **options: Any) -> list[int]:
        begun.set()
        assert may.wait(30)
        return [1, 2]

    monkeypatch.setattr(served, "tokens_of", slow)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.ask, "POST", "/tokenize", {"content": "a"})
        try:
            assert begun.wait(30)
            assert server.ask("GET", "/health")[0] == 200
        finally:
            may.set()
        assert asked.result()[2]["tokens"] == [1, 2]


def test_grammars_that_are_compiled(server: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, begun, may = Grammars._compiled, threading.Event(), threading.Event()

    def slow(self: Any, grammar: Any) -> Any:
        begun.set()
        assert may.wait(30)
        return compiled(self, grammar)

    monkeypatch.setattr(Grammars, "_compiled", slow)
    body = {**SHORT, "structured_outputs": {"regex": "[ab]{1,9}"}}
    with ThreadPoolExecutor(MANY) as pool:
        asked = [pool.submit(server.ask, "POST", TEXT, body) for _ in range(MANY)]
        try:
            assert begun.wait(30)
            assert server.ask("POST", TEXT, SHORT)[0] == 200
        finally:
            may.set()
        assert [one.result()[0] for one in asked] == [200] * MANY


def test_a_prompt_that_is_too_long_is_read_once(server: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    make, made = server.model.request, list[Any]()
    monkeypatch.setattr(server.model, "request", lambda *a, **o: made.append(a) or make(*a, **o))
    status, _, answer = server.ask("POST", TEXT, {"prompt": "a b c " * 300, "n": 8})
    assert (status, answer["error"]["code"], len(made)) == (400, "context_length_exceeded", 1)


def test_a_prompt_of_more_letters_than_a_context_holds_is_not_read(
    server: Living, monkeypatch: pytest.MonkeyPatch
) -> None:
    def request(*given: Any, **options: Any) -> Any:
        raise OutpaceError("it is read")

    monkeypatch.setattr(server.model, "request", request)
    for path, asked in ((TEXT, {"prompt": "a" * 10**6}), ("/v1/responses", {"input": "a" * 10**6})):
        status, _, answer = server.ask("POST", path, asked)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "the context holds 512 tokens of" in answer["error"]["message"]
