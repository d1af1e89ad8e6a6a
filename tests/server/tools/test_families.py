"""What models of each family write, and what is read of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.files.chat import ChatTemplate
from outpace.server.tools import template_messages
from tests.server.tools.reading import Said, read, reader_of
from tests.server.tools.templates import (
    D_ALL,
    D_END_ALL,
    D_END_ONE,
    D_ONE,
    D_SEPARATOR,
    TEMPLATES,
)

ONE = '{"name": "weather", "arguments": {"city": "Zürich}]</tool_call>"}}'
TWO = '{"name": "get-time", "arguments": {}}'
CALLS = [("weather", '{"city": "Zürich}]</tool_call>"}'), ("get-time", "{}")]
BOTH = Said("", CALLS)
FIRST = Said("", CALLS[:1])


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("hermes", f"<tool_call>\n{ONE}\n</tool_call>\n<tool_call>\n{TWO}\n</tool_call>", BOTH),
        ("hermes", f"<tool_call>{ONE}</tool_call><tool_call>{TWO}</tool_call>", BOTH),
        ("hermes", f"<tool_call>[{ONE},\n{TWO}]</tool_call>", BOTH),
        ("hermes", f"<tool_call>\n{ONE}\n<tool_call>\n{TWO}", BOTH),
        ("hermes", f"<tool_call>{ONE[:-1]}</tool_call>", FIRST),
        ("hermes", f"A\n<tool_call>{ONE}</tool_call>\nB", Said("A\nB", CALLS[:1])),
        ("qwen-coder", f"<tool_call>\n{ONE}\n</tool_call>", FIRST),
        ("llama", ONE.replace("arguments", "parameters"), FIRST),
        ("llama", f"<|python_tag|>{ONE}", FIRST),
        ("llama", f"{ONE}; {TWO}", BOTH),
        ("llama", f"{ONE}\n<|python_tag|>{TWO}", BOTH),
        ("llama", f"Sure:\n{ONE}", Said("Sure:", CALLS[:1])),
        ("llama", '<|python_tag|>search.call(query="x")', Said('<|python_tag|>search.call(query="x")')),
        ("mistral", f"[TOOL_CALLS][{ONE}, {TWO}]", BOTH),
        ("mistral", f"[TOOL_CALLS] [{ONE[:-1]}, \"id\": \"abcdefghi\"}}]", FIRST),
        ("mistral", f"[TOOL_CALLS]{ONE}", FIRST),
        ("mistral-args", "[TOOL_CALLS]weather[ARGS]" + CALLS[0][1] + "[TOOL_CALLS]get-time[ARGS]{}", BOTH),
        ("mistral-args", "[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]" + CALLS[0][1], FIRST),
        ("mistral-args", "[TOOL_CALLS]weather" + CALLS[0][1], FIRST),
        ("granite", f"<|tool_call|>[{ONE}, {TWO}]", BOTH),
        ("granite", f"<|tool_call|> {ONE}", FIRST),
        ("granite", f"<tool_call>[{ONE}, {TWO}]", BOTH),
        ("phi", f"<|tool_call|>[{ONE}, {TWO}]<|/tool_call|>", BOTH),
        ("phi", f"<|tool_call|>{ONE}<|/tool_call|><|tool_call|>{TWO}<|/tool_call|>", BOTH),
        ("functools", f"functools[{ONE}, {TWO}]", BOTH),
        ("functools", "import functools\nx = 1", Said("import functools\nx = 1")),
        ("json", ONE, FIRST),
        ("json", f"[{ONE}, {TWO}]", BOTH),
        ("json", f"{ONE}\n{TWO}", BOTH),
        ("json", f"Here: {ONE}", Said(f"Here: {ONE}")),
        ("json", '{"type": "function", ' + ONE[1:], FIRST),
        ("json", '{"name": "weather"}', Said('{"name": "weather"}')),
        ("json", '{"city": "Bern", "name": "weather"}', Said('{"city": "Bern", "name": "weather"}')),
        ("json", "{\n}", Said("{\n}")),
        ("json", "[]", Said("[]")),
    ],
)  # fmt: skip
def test_examples(kind: str, text: str, said: Said) -> None:
    assert read(kind, text) == said


@pytest.mark.parametrize(
    "text",
    [
        f"{D_ALL}{D_ONE}function{D_SEPARATOR}weather\n```json\n{CALLS[0][1]}\n```{D_END_ONE}\n"
        f"{D_ONE}function{D_SEPARATOR}get-time\n```json\n{{}}\n```{D_END_ONE}{D_END_ALL}",
        f"{D_ALL}\n{D_ONE}function{D_SEPARATOR}weather\n{CALLS[0][1]}{D_END_ONE}"
        f"{D_ONE}function{D_SEPARATOR}get-time{{}}",
        f"{D_ALL}{D_ONE}weather{D_SEPARATOR}{CALLS[0][1]}{D_END_ONE}"
        f"{D_ONE}get-time{D_SEPARATOR}{{}}{D_END_ONE}{D_END_ALL}",
    ],
)
def test_deepseek(text: str) -> None:
    for kind in ("deepseek-r1", "deepseek-v3.1"):
        assert read(kind, text) == BOTH
        assert read(kind, f"<think>\nhm</think>\n\n{text}") == Said("<think>\nhm</think>", CALLS)
        assert read(kind, text.replace("weather", "nobody")).calls == CALLS[1:]


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>{"name": "nobody", "arguments": {"city": "x"}}</tool_call>',
        '<tool_call>{"arguments": {"city": "x"}, "name": "nobody"}</tool_call>',
        "<tool_call>{'name': 'weather', 'arguments': {'city': 'x'}}</tool_call>",
        '<tool_call>{"name": "weather", "arguments": {city: "x"}}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": ["x"]}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": "x"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": 12}</tool_call>',
        '<tool_call>{"name": ["weather"], "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        "<tool_call>{}</tool_call> <tool_call>weather</tool_call>",
        '<tool_call>{"name": "weather", "argu',
        '<tool_call>{"name": "weather", "arguments": {"ci',
        "<tool_call>",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert read("hermes", text) == Said(text)


@pytest.mark.parametrize(
    ("members", "arguments"),
    [
        ('"name": "weather"', "{}"),
        ('"name": "weather", "arguments": null', "{}"),
        ('"name": "weather", "arguments": {"a": 1}, ', '{"a": 1}'),
        ('"name": "weather", "arguments": "{\\"city\\": \\"a\\\\n\\"}"', '{"city": "a\\n"}'),
        ('"id": 12, "name": "weather", "x": [{"y": "}"}], "arguments": {"a": 1}', '{"a": 1}'),
        ('"name": "weather", "parameters": {"a": {"b": [{}, "}"]}}', '{"a": {"b": [{}, "}"]}}'),
        ('"name": "weather", "arguments" : { "a" : "\\u00e9\\"" }', '{ "a" : "\\u00e9\\"" }'),
        ('"name": "weather", "arguments": {"a": "1\n\t2"}', '{"a": "1\\n\\t2"}'),
        ('"arguments": {"a": "1\n2"}, "name": "weather"', '{"a": "1\\n2"}'),
        ('"n\\u0061me": "w\\u0065ather", "arguments": {}', "{}"),
        ('"name": "weather", "arguments": {"a": 1}, "arguments": {"a": 2}', '{"a": 1}'),
    ],
)
def test_members(members: str, arguments: str) -> None:
    said = read("hermes", f"<tool_call>{{{members}}}</tool_call>")
    assert said == Said("", [("weather", arguments)])
    assert isinstance(json.loads(arguments), dict)


def parameter(key: str, value: str) -> str:
    return f"<parameter={key}>\n{value}\n</parameter>\n"


def function(*parameters: str) -> str:
    return "<tool_call>\n<function=weather>\n" + "".join(parameters) + "</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("city", "Zürich", "Zürich"),
        ("city", "12", "12"),
        ("city", 'two\nlines "x" \\ <b> </param', 'two\nlines "x" \\ <b> </param'),
        ("city", "\n\nx\n", "\n\nx\n"),
        ("city", "", ""),
        ("unknown", "12", "12"),
        ("days", "12", 12),
        ("days", " 12 ", 12),
        ("days", "12.5", "12.5"),
        ("days", "many", "many"),
        ("exact", "true", True),
        ("exact", "True", True),
        ("exact", "1", "1"),
        ("where", '{"lat": 1.5, "x": ["}"]}', {"lat": 1.5, "x": ["}"]}),
        ("where", '{"lat": ', '{"lat": '),
        ("tags", '["a",\n "b"]', ["a", "b"]),
        ("unit", "C", "C"),
        ("note", "null", None),
        ("note", "None", None),
        ("note", "none", "none"),
        ("note", "12", "12"),
        ("any", "12", 12),
        ("any", "twelve", "twelve"),
        ("point", '{"x": 1}', {"x": 1}),
    ],
)
def test_parameters_have_the_types_of_the_schema(key: str, value: str, expected: object) -> None:
    said = read("qwen-coder", function(parameter(key, value), parameter("z", "b")))
    assert said.content == "" and [name for name, _ in said.calls] == ["weather"]
    assert json.dumps(json.loads(said.calls[0][1])) == json.dumps({key: expected, "z": "b"})


def test_parameters_stream() -> None:
    reader = reader_of("qwen-coder")
    assert reader.push("<tool_call>\n<function=weather>\n<parameter=city") == []
    assert [getattr(delta, "text", "") for delta in reader.push(">\nZür")] == ["", '{"city": "Zür']
    assert reader.push("\n</para") == []
    assert [getattr(delta, "text", "") for delta in reader.push('x"')] == ['\\n</parax\\"']


def test_functions_without_parameters_and_without_their_frame() -> None:
    assert read("qwen-coder", function()) == Said("", [("weather", "{}")])
    assert read("qwen-coder", "<function=get-time></function>") == Said("", [("get-time", "{}")])
    text = function(parameter("city", "a")).replace("weather", "nobody")
    assert read("qwen-coder", text) == Said(text)
    assert read("qwen-coder", "<function=weather>\nhm") == Said("<function=weather>\nhm")
    cut = read("qwen-coder", function(parameter("city", "a"))[:-36])
    assert cut == Said("", [("weather", '{"city": "a\\n<')]), "the end of a value may be cut off too"


scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)
objects = st.dictionaries(st.text(min_size=1, max_size=6), values, max_size=3)
# Types of its own for each key, and no text that ends a parameter: its syntax has no escapes.
plain = st.text(max_size=8).filter(lambda text: "</parameter>" not in text)
typed = st.fixed_dictionaries(
    {"city": plain},
    optional={"days": st.integers(), "exact": st.booleans(), "where": objects, "tags": st.lists(values)},
)


@pytest.mark.parametrize("kind", TEMPLATES)
def test_calls_that_a_template_writes_are_read(kind: str) -> None:
    """The template is the model here: its text for a message with calls gives these calls."""
    template = ChatTemplate(TEMPLATES[kind])

    @settings(max_examples=30)
    @given(
        st.lists(typed if kind == "qwen-coder" else objects, min_size=1, max_size=3),
        st.sampled_from(["", "Let me see."]),
    )
    def check(arguments: list[dict[str, Any]], content: str) -> None:
        names = ["weather"] * 3 if kind == "qwen-coder" else ["weather", "get-time", "weather"]
        functions = [{"name": n, "arguments": json.dumps(a)} for n, a in zip(names, arguments, strict=False)]
        calls = [{"id": f"call_{i}", "function": function} for i, function in enumerate(functions)]
        # A call that is a line must begin one.
        content += "\n" if content and kind in ("llama", "json") else ""
        messages = [
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": content, "tool_calls": calls},
        ]
        prompt = template.render(template_messages(messages, template.source), add_generation_prompt=False)
        text = prompt.partition("A:")[2].removesuffix("\n")
        said = read(kind, text)
        assert said.content == content.rstrip()
        assert [name for name, _ in said.calls] == names[: len(calls)]
        assert [json.loads(text) for _, text in said.calls] == arguments

    check()
