"""A request that is passed on: what a router reads of it, and that its answer is the app's own."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from outpace.serve.sent import messages, prompt_of
from tests.serve.asking import Server, ask, request
from tests.server.living import NAME

CHAT = "/v1/chat/completions"
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why are there tides?"}]


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"messages": TURNS}, "Be brief.Why are there tides?"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}]}, "ab"),
        ({"messages": [{"role": "assistant", "content": None}]}, ""),
        ({"prompt": "the boats"}, "the boats"),
        ({"prompt": ["one", "two"]}, "onetwo"),
        ({"prompt": [65, 66]}, "AB"),
        ({"instructions": "Be brief.", "input": "Why?"}, "Be brief.Why?"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}]}, "Why?"),
        ({"content": "of /tokenize"}, ""),
        ({"messages": {"role": 3}, "prompt": 1.5}, ""),
        ([1, 2], ""),
    ],
)
def test_the_text_that_a_router_reads(body: Any, prompt: str) -> None:
    assert prompt_of(json.dumps(body).encode()) == prompt


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_has_none(body: bytes) -> None:
    assert prompt_of(body) == ""


def test_a_longer_conversation_begins_with_the_shorter_one() -> None:
    longer = [*TURNS, {"role": "assistant", "content": "The moon."}, {"role": "user", "content": "And?"}]
    first, second = (prompt_of(json.dumps({"messages": one}).encode()) for one in (TURNS, longer))
    assert second.startswith(first) and second != first


def test_a_request_survives_the_way(one: Server) -> None:
    sent = request("POST", CHAT, {"model": NAME, "messages": TURNS})
    assert pickle.loads(pickle.dumps(sent)) == sent
    assert "headers" in sent.scope and "app" not in sent.scope


def test_a_stream_comes_in_pieces_as_it_is_written(one: Server) -> None:
    body = {"messages": TURNS, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "stream": True}
    streamed = ask(one.app, "POST", CHAT, body)
    assert streamed.headers["content-type"].startswith("text/event-stream") and len(streamed.pieces) > 3
    *events, done = streamed.events()
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    plain = one.house.of(NAME).model.generate(
        TURNS, max_tokens=8, temperature=0, ignore_eos=True, draft="none"
    )
    assert done == "[DONE]" and text == plain.text
    assert (
        ask(one.app, "POST", CHAT, body | {"stream": False}).json["choices"][0]["message"]["content"] == text
    )


def test_who_goes_away_cancels(one: Server) -> None:
    body = {"prompt": "the boats", "max_tokens": 400, "ignore_eos": True, "stream": True}

    async def leave() -> None:
        answer = messages(one.app, request("POST", "/v1/completions", body))
        kinds = [(await anext(answer))["type"] for _ in range(3)]
        assert kinds == ["http.response.start", "http.response.body", "http.response.body"]
        await answer.aclose()

    asyncio.run(leave())
    worker = one.house.of(NAME).worker
    end = time.monotonic() + 10
    while worker.num_here and time.monotonic() < end:
        time.sleep(0.01)
    assert worker.num_here == 0


def test_an_error_before_an_answer_is_raised_and_one_behind_it_is_not() -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("no answer")

    async def fails_late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"it failed"})
        raise ValueError("known already")

    with pytest.raises(ValueError, match="no answer"):
        ask(fails, "GET", "/")
    answer = ask(fails_late, "GET", "/")
    assert (answer.status, answer.text) == (500, "it failed")
