"""`trace: true` in a chat's body: streamed, whole and refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.server.living import NAME, Living

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "the harbour was quiet, the harbour was"}]
CASES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 0, "stop": ["e", "lo"]},
    {"temperature": 1.2, "seed": 5, "stop_token_ids": list(range(70, 90))},
    {"temperature": 0, "speculative.n_max": 0},
    {"temperature": 0, "logprobs": True},
]


def ask(server: Living, **options: Any) -> Any:
    body = {"model": NAME, "messages": MESSAGES, "max_tokens": 60, **options}
    status, _, answer = server.ask("POST", CHAT, body)
    assert status == 200, answer
    return answer


def said(trace: dict[str, Any]) -> str:
    return "".join(piece for step in trace["steps"] for piece in step["said"])


@pytest.mark.parametrize("options", CASES, ids=str)
def test_it_adds_up(server: Living, options: dict[str, Any]) -> None:
    plain = ask(server, **options)
    answer = ask(server, trace=True, **options)
    trace, timings = answer["trace"], answer["timings"]
    content = answer["choices"][0]["message"]["content"]
    assert "trace" not in plain and content == plain["choices"][0]["message"]["content"] == said(trace)
    assert (trace["kind"], trace["version"], trace["model"]) == ("outpace trace", 1, NAME)
    assert trace["draft"] == ("none" if "speculative.n_max" in options else server.house.of(NAME).draft)
    assert trace["sampling"]["temperature"] == options["temperature"]
    assert trace["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    steps = trace["steps"]
    kept = sum(len(step["kept"]) for step in steps)
    own = sum(step["own"] is not None for step in steps)
    assert kept + own == answer["usage"]["completion_tokens"]
    assert kept == timings["draft_n_accepted"]
    assert sum(len(step["tree"]["tokens"]) - 1 for step in steps) == timings["draft_n"]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_the_chunks_of_a_stream_have_a_step_each(server: Living, options: dict[str, Any]) -> None:
    text = ask(server, trace=True, stream=True, **options)
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: {")]
    chunks = [json.loads(line) for line in lines]
    traces = [chunk["trace"] for chunk in chunks if "trace" in chunk]
    assert all(len(trace["steps"]) == 1 for trace in traces)
    content = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    whole = ask(server, trace=True, **options)["trace"]
    assert "".join(map(said, traces)) == content == said(whole)
    assert [trace["model"] for trace in traces] == [NAME] * len(traces)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace": "yes"}, "boolean"),
        ({"trace": 1}, "boolean"),
        ({"trace": True, "n": 2}, "trace is of one answer and n is 2, accepted is n 1 with it"),
    ],
)
def test_what_is_refused(server: Living, options: dict[str, Any], message: str) -> None:
    status, _, answer = server.ask("POST", CHAT, {"model": NAME, "messages": MESSAGES, **options})
    assert (status, answer["error"]["param"]) == (400, "trace") and message in answer["error"]["message"]
    ask(server, trace=False, n=2)
