"""Answers that follow a schema, an expression or rules, and calls that are forced."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from outpace.files.chat import ChatTemplate
from outpace.models.grammar import Grammar
from tests.server.living import NAME, Living

MESSAGES: Any = [{"role": "user", "content": "the harbour was quiet"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "port": {"enum": ["Bergen", "Oslo"]},
        "boats": {"type": "integer", "maximum": 9, "minimum": 0},
    },
    "required": ["port", "boats"],
    "additionalProperties": False,
}
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools> answer with <tool_call>{...}</tool_call>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS: Any = [{"type": "function", "function": {"name": "tide", "parameters": SCHEMA}}]


class Harbour(BaseModel):
    port: Literal["Bergen", "Oslo"]
    open: bool


@pytest.fixture
def client(server: Living) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)


@pytest.mark.parametrize("seed", range(5))
def test_parse(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model=NAME, messages=MESSAGES, response_format=Harbour, max_tokens=100, seed=seed
    )
    found = answer.choices[0].message.parsed
    assert isinstance(found, Harbour) and answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_schema_has_the_tokens_of_plain_decoding(
    server: Living, client: openai.OpenAI, temperature: float
) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "harbour", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, response_format=form, temperature=temperature, seed=3, max_tokens=100
    )
    options: Any = {"temperature": float(temperature), "seed": 3, "max_tokens": 100}
    wanted = server.model.generate(MESSAGES, draft=None, grammar=Grammar.json_schema(SCHEMA), **options)
    text = answer.choices[0].message.content
    assert text == wanted.text
    assert json.loads(text or "").keys() == {"port", "boats"}
    assert answer.model_extra is not None and answer.model_extra["timings"]["draft_n_accepted"] > 10


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": "[ab]{3}-[0-9]{2}"}, "[ab]{3}-[0-9]{2}"),
        ({"lark": 'start: "x" ("y" | "z")'}, "x[yz]"),
        ({"gbnf": 'root ::= "x" ("y" | "z")'}, "x[yz]"),
        ({"json": {"enum": ["one", "two"]}}, '"(one|two)"'),
    ],
)
def test_structured_outputs(client: openai.OpenAI, outputs: dict[str, Any], pattern: str) -> None:
    answer = client.completions.create(
        model=NAME, prompt="a", max_tokens=60, extra_body={"structured_outputs": outputs}
    )
    assert re.fullmatch(pattern, answer.choices[0].text)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "bottle"}},
                }
            },
            "response_format",
        ),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "lark": "b"}}, "structured_outputs"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
        ),
    ],
)
def test_what_is_no_grammar_is_refused(server: Living, options: dict[str, Any], param: str | None) -> None:
    status, _, answer = server.ask("POST", "/v1/chat/completions", {"messages": MESSAGES, **options})
    assert status == 400 and "\n" not in answer["error"]["message"], answer
    if param is not None:
        assert answer["error"]["param"].startswith(param)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize("regex", ["(a{1000}){20}", "[bc](a{1000}){20}"])
def test_what_is_too_much_to_be_followed_is_refused(server: Living, path: str, regex: str) -> None:
    """At once, or where the text comes to it; others go on."""
    said = {"messages": MESSAGES} if path.startswith("chat") else {"prompt": "a"}
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(server.ask, "POST", f"/v1/{path}", {**said, "max_tokens": 100, "seed": 1})
        asked = {**said, "structured_outputs": {"regex": regex}}
        status, _, answer = server.ask("POST", f"/v1/{path}", asked)
        assert other.result()[0] == 200
    assert (status, answer["error"]["param"]) == (400, "structured_outputs"), answer
    assert "accepted are 8192 at most" in answer["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_is_forced(
    server: Living, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    monkeypatch.setattr(server.model, "chat", ChatTemplate(TEMPLATE))
    choice: Any = {"type": "function", "function": {"name": "tide"}}
    given: Any = client.chat.completions.create(
        model=NAME, messages=MESSAGES, tools=TOOLS, tool_choice=choice, max_tokens=200, seed=1, stream=stream
    )
    name, arguments, reason = "", "", None
    for chunk in given if stream else [given]:
        one = chunk.choices[0].delta if stream else chunk.choices[0].message
        reason = chunk.choices[0].finish_reason or reason
        for call in one.tool_calls or ():
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert name == "tide" and reason == "tool_calls"
    assert json.loads(arguments).keys() == {"port", "boats"}


@pytest.mark.parametrize("n", [1, 3])
def test_a_forced_call_ends_the_text_and_its_requests_are_built_once(
    server: Living, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    monkeypatch.setattr(server.model, "chat", ChatTemplate(TEMPLATE))
    make, made = server.model.request, list[Any]()

    def watched(*args: Any, **options: Any) -> Any:
        made.append(make(*args, **options))
        return made[-1]

    monkeypatch.setattr(server.model, "request", watched)
    answer = client.chat.completions.create(
        model=NAME, messages=MESSAGES, tools=TOOLS, tool_choice="required", parallel_tool_calls=False,
        max_tokens=200, seed=1, n=n,
    )  # fmt: skip
    assert len(made) == n
    prompt = made[0][0].prompt
    assert "<tools>" in server.model.tokenizer.decode(list(prompt))
    for choice in answer.choices:
        calls = choice.message.tool_calls or []
        call = calls[0]
        assert len(calls) == 1 and isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert json.loads(call.function.arguments).keys() == {"port", "boats"}
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert answer.usage is not None and answer.usage.completion_tokens < 100 * n


CALL = '<tool_call>\n{"name": "tide", "arguments": {"port": "Oslo", "boats": 3}}\n</tool_call>'


@pytest.mark.parametrize("parallel", [False, None])
def test_a_text_ends_with_the_one_call_that_it_may_make(
    server: Living, monkeypatch: pytest.MonkeyPatch, parallel: bool | None
) -> None:
    """A grammar stands in for a model that calls, and then goes on."""
    monkeypatch.setattr(server.model, "chat", ChatTemplate(TEMPLATE))
    lark = f"start: {json.dumps(CALL)} /[a-z]{{40}}/"
    asked = {
        "messages": MESSAGES, "tools": TOOLS, "parallel_tool_calls": parallel, "max_tokens": 200, "seed": 1,
        "structured_outputs": {"lark": lark},
    }  # fmt: skip
    found = list[Any]()
    for budget in (0, 63):
        _, _, whole = server.ask("POST", "/v1/chat/completions", asked | {"draft_budget": budget})
        [choice] = whole["choices"]
        _, _, text = server.ask(
            "POST",
            "/v1/chat/completions",
            asked | {"draft_budget": budget, "stream": True, "stream_options": {"include_usage": True}},
        )
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        deltas = [chunk["choices"][0] for chunk in chunks if chunk["choices"]]
        calls = [call["function"] for one in deltas for call in one["delta"].get("tool_calls", ())]
        arguments = "".join(call["arguments"] for call in calls)
        assert arguments == choice["message"]["tool_calls"][0]["function"]["arguments"]
        assert deltas[-1]["finish_reason"] == choice["finish_reason"] == "tool_calls"
        assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        found.append((arguments, choice["message"]["content"], whole["usage"]["completion_tokens"]))
    assert found[0] == found[1] and json.loads(found[0][0]) == {"port": "Oslo", "boats": 3}
    # Up to the end of the arguments, or all of it.
    tokens = len(server.model.tokenizer.encode(CALL[: CALL.index("}") + 1], add_special_tokens=False))
    assert (found[0][2] <= tokens + 1) == (parallel is False), found[0]
