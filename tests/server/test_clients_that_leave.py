"""Clients that leave before they have an answer: nothing is written for them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from outpace.models.grammar_tokens import Grammars
from tests.server.living import NAME, Living, Steps, sent, within

BUDGET = 480
LONG = {"model": NAME, "max_tokens": BUDGET, "ignore_eos": True}
ASKED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ("/v1/completions", {"prompt": "a", "n": 3}),
    ("/v1/responses", {"input": "a"}),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "asked"), ASKED, ids=[path for path, _ in ASKED])
def test_who_leaves_while_a_request_is_read_is_not_written_for(
    server: Living, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any], stream: bool
) -> None:
    """Such a client has left before the response begins: its request never comes to the model."""
    worker, reads, has_left = server.house.of(NAME).worker, threading.Event(), threading.Event()
    submitted, made = list[Any](), list[Any]()
    make, submit = server.model.request, worker.submit

    def slow(*args: Any, **options: Any) -> Any:
        reads.set()
        assert has_left.wait(30)
        made.append(make(*args, **options))
        return made[-1]

    def seen(tickets: Any) -> None:
        submitted.append(tickets)
        submit(tickets)

    monkeypatch.setattr(server.model, "request", slow)
    monkeypatch.setattr(worker, "submit", seen)
    long = dict(LONG)
    if path.endswith("responses"):
        long = {"max_output_tokens": BUDGET}
    line = sent(server, path, {**asked, **long, "stream": stream})
    assert reads.wait(30)
    line.close()
    time.sleep(0.3)  # the server hears of it
    has_left.set()
    assert within(30, lambda: len(made) == asked.get("n", 1))
    monkeypatch.setattr(server.model, "request", make)
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})[0] == 200
    assert len(submitted) == 1 and worker.num_here == 0


def test_the_grammar_of_who_has_left_is_not_compiled(server: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, may, compiled = threading.Event(), threading.Event(), list[str]()
    compile_one = Grammars._compiled

    def slow(self: Any, grammar: Any) -> Any:
        compiled.append(grammar.text)
        begun.set()
        assert may.wait(30)
        return compile_one(self, grammar)

    monkeypatch.setattr(Grammars, "_compiled", slow)

    def asked(regex: str) -> dict[str, Any]:
        return {"prompt": "a", "max_tokens": 2, "structured_outputs": {"regex": regex}}

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.ask, "POST", "/v1/completions", asked("[ab]{3}"))
        try:
            assert begun.wait(30)
            sent(server, "/v1/completions", asked("[cd]{3}")).close()
            time.sleep(0.3)  # the server hears of both
        finally:
            may.set()
        assert first.result()[0] == 200
    assert server.ask("POST", "/v1/completions", asked("[ef]{3}"))[0] == 200
    assert compiled == ["[ab]{3}", "[ef]{3}"]


def test_who_sends_and_hangs_up_is_not_written_for(server: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    worker, steps = server.house.of(NAME).worker, Steps(server, monkeypatch)
    for number in range(20):
        path, asked = ASKED[number % 2]
        sent(server, path, {**asked, **LONG, "stream": number % 3 > 0}).close()
    assert server.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})[0] == 200
    assert within(4, lambda: worker.num_here == 0 and worker.num_running == 0)
    assert steps.count < BUDGET / 4


def test_embeddings_end_where_nobody_waits(server: Living, monkeypatch: pytest.MonkeyPatch) -> None:
    served, made = server.house.of(NAME), []
    tokens_of = served.tokens_of

    def slow(text: str, **options: Any) -> list[int]:
        made.append(text)
        time.sleep(0.01)
        return tokens_of(text, **options)

    monkeypatch.setattr(served, "tokens_of", slow)
    line = sent(server, "/v1/embeddings", {"input": ["a"] * 1000})
    assert within(30, lambda: bool(made))
    line.close()
    time.sleep(0.3)
    count = len(made)
    time.sleep(0.3)
    assert len(made) == count < 1000
