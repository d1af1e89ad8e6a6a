"""The front of several servers: guards, answers that pass through, counters of all."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message

from outpace.serve.front import counted, create_front
from outpace.serve.sent import Sent, messages
from outpace.server.errors import Refused
from tests.serve.asking import Server, ask
from tests.server.living import NAME

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "the boats"}], "max_tokens": 6, "temperature": 0}


class Behind:
    """One server that goes by two names; counts how often it is asked."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.asked = 0

    async def answer(self, sent: Sent) -> AsyncGenerator[Message, None]:
        self.asked += 1
        async for message in messages(self.server.app, sent):
            yield message

    async def metrics(self) -> Mapping[str, Sequence[Metric]]:
        counts = list(self.server.metrics.registry.collect())
        return {"a": counts, "b": counts}


class Failing(Behind):
    """Its server goes away behind so many messages."""

    def __init__(self, server: Server, messages: int) -> None:
        super().__init__(server)
        self.messages = messages

    async def answer(self, sent: Sent) -> AsyncGenerator[Message, None]:
        passed = 0
        async for message in super().answer(sent):
            if passed == self.messages:
                raise Refused("the replica has gone", status=503, code="unavailable")
            yield message
            passed += 1


def front(servers: Behind, **guards: Any) -> FastAPI:
    return create_front(servers, **{"keys": (), "origins": (), "most_bytes": 4096} | guards)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", CHAT, BODY),
        ("POST", CHAT, BODY | {"temperature": -1}),
        ("POST", CHAT, b"{"),
        ("POST", "/v1/completions", {"prompt": "the boats", "max_tokens": 3, "temperature": 0}),
        ("POST", "/tokenize", {"content": "the boats"}),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/none", None),
        ("GET", "/health", None),
        ("GET", "/openapi.json", None),
        ("GET", "/docs", None),
        ("GET", "/", None),
        ("GET", "/nowhere", None),
        ("DELETE", CHAT, None),
    ],
)
def test_an_answer_is_that_of_the_server(one: Server, method: str, path: str, body: Any) -> None:
    through, direct = (ask(app, method, path, body) for app in (front(Behind(one)), one.app))
    assert through.status == direct.status
    own = ("id", "created", "timings")
    for name in {*through.headers, *direct.headers} - {"content-length"}:
        assert through.headers[name] == direct.headers[name]
    if "json" in direct.headers.get("content-type", ""):
        cut = [{k: v for k, v in answer.json.items() if k not in own} for answer in (through, direct)]
        for answer in cut:
            answer.get("usage", {}).pop("prompt_tokens_details", None)  # the second finds more that is read
        assert cut[0] == cut[1]
    else:
        assert through.text == direct.text


def test_who_has_no_key_reaches_no_server(one: Server) -> None:
    behind = Behind(one)
    guarded = front(behind, keys=["secret"])
    assert ask(guarded, "POST", CHAT, BODY).json["error"]["code"] == "invalid_api_key"
    assert ask(guarded, "GET", "/metrics").status == 401
    assert behind.asked == 0
    known = {"authorization": "Bearer secret"}
    assert ask(guarded, "POST", CHAT, BODY, known).status == 200
    assert ask(guarded, "GET", "/health").status == 200
    assert behind.asked == 2


def test_a_long_body_reaches_no_server(one: Server) -> None:
    behind = Behind(one)
    for headers in ({}, {"content-length": "10"}):
        answer = ask(front(behind), "POST", CHAT, b" " * 4097, headers)
        assert answer.status == 413 and "accepted are 4096 bytes" in answer.json["error"]["message"]
    assert behind.asked == 0


def test_a_page_of_an_origin_may_ask(one: Server) -> None:
    allowed = front(Behind(one), origins=["https://a.example"])
    answer = ask(allowed, "POST", CHAT, BODY, {"origin": "https://a.example"})
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_a_server_that_is_gone_is_said(one: Server) -> None:
    answer = ask(front(Failing(one, 0)), "POST", CHAT, BODY)
    assert (answer.status, answer.json["error"]["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"] == "1"
    streamed = ask(front(Failing(one, 3)), "POST", CHAT, BODY | {"stream": True})
    assert streamed.status == 200
    *_, last = streamed.events()
    assert last["error"]["code"] == "unavailable"


def test_counters_of_all_servers(one: Server) -> None:
    ask(one.app, "POST", CHAT, BODY)
    answer = ask(front(Behind(one)), "GET", "/metrics")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    own = {family.name for family in text_string_to_metric_families(one.metrics.text().decode())}
    assert set(families) == own
    tokens = [sample for sample in families["outpace:generation_tokens"].samples if sample.value]
    assert {sample.labels["replica"] for sample in tokens} == {"a", "b"}
    assert {sample.labels["model_name"] for sample in tokens} == {NAME}
    assert counted({}) == b""
