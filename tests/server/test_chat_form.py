"""How a chat's answer is written where the text has calls: whole and streamed, from pieces of any size."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from outpace.core.stats import GenerationStats
from outpace.engine.request import FinishReason, Generation
from outpace.server.bodies import ChatBody
from outpace.server.chat import ChatForm
from outpace.server.completions import CompletionForm
from outpace.server.responses import ResponsesForm
from outpace.server.tools.hermes import Hermes
from outpace.server.worker import Update
from tests.server.living import Living

TEXT = 'It is near. <tool_call>\n{"name": "tide", "arguments": {"port": "Bergen", "days": 2}}\n</tool_call>'
BODY = ChatBody.model_validate({"messages": [{"role": "user", "content": "a"}]})


def form() -> ChatForm:
    reader = Hermes().reader({"tide": {"type": "object"}}, new_id=lambda: "call_1")
    return ChatForm("m", cast(Any, None), BODY, [reader])


def result(reason: FinishReason) -> Generation:
    return Generation(TEXT, [1, 2], reason, GenerationStats(), 3, "identical", "bitwise")


@pytest.mark.parametrize("size", [1, 3, 7, 200])
def test_a_call_is_a_call(size: int) -> None:
    made, chunks = form(), []
    pieces = [TEXT[at : at + size] for at in range(0, len(TEXT), size)]
    for number, piece in enumerate(pieces):
        last = result("stop") if number == len(pieces) - 1 else None
        chunks += made.piece(0, Update([1], piece, [], result=last))
    choice = made.whole([result("stop")])["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"].strip() == "It is near."
    (call,) = choice["message"]["tool_calls"]
    assert (call["id"], call["type"], call["function"]["name"]) == ("call_1", "function", "tide")
    assert json.loads(call["function"]["arguments"]) == {"port": "Bergen", "days": 2}
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == choice["message"]["content"]
    calls = [one for delta in deltas for one in delta.get("tool_calls", ())]
    assert calls[0]["function"] == {"name": "tide", "arguments": ""}
    assert "".join(one["function"]["arguments"] for one in calls) == call["function"]["arguments"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_off_says_so() -> None:
    made = form()
    made.piece(0, Update([1], TEXT[:60], [], result=result("length")))
    assert made.whole([result("length")])["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "trace": True}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "logprobs": True, "n": 2}),
        ("/v1/completions", {"prompt": "a", "logprobs": 1, "echo": False}),
        ("/v1/responses", {"input": "a", "max_output_tokens": 5}),
    ],
)
def test_no_chunks_are_built_for_a_whole_answer(
    server: Living, monkeypatch: pytest.MonkeyPatch, path: str, asked: dict[str, Any]
) -> None:
    for form in (ChatForm, CompletionForm, ResponsesForm):
        monkeypatch.delattr(form, "piece")
    more = {} if path.endswith("responses") else {"max_tokens": 5}
    assert server.ask("POST", path, {**asked, **more})[0] == 200


def test_an_answer_that_is_taken_in_is_that_of_its_pieces() -> None:
    taken, streamed = form(), form()
    for at in range(0, len(TEXT), 5):
        last = result("stop") if at + 5 >= len(TEXT) else None
        taken.take(0, Update([1], TEXT[at : at + 5], [], result=last))
        streamed.piece(0, Update([1], TEXT[at : at + 5], [], result=last))
    assert taken.whole([result("stop")])["choices"] == streamed.whole([result("stop")])["choices"]
