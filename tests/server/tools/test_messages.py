"""OpenAI's messages as templates expect them: what comes in, what goes out, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.files.chat import ChatTemplate
from outpace.server.tools import template_messages
from tests.server.tools.templates import DEEPSEEK_V31, HERMES, MISTRAL, QWEN_CODER

USER = {"role": "user", "content": "Weather?"}


def call(id: str = "call_1", name: str = "weather", arguments: Any = '{"city": "Zürich"}') -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def asked(*calls: Any, **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


def answer(id: Any = "call_1", content: Any = "20") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": id, "content": content}


def test_a_conversation() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    given = [
        {"role": "developer", "content": parts},
        {**USER, "name": "Ann", "audio": None},
        asked(call(), call("call_2", "get-time", ""), refusal=None),
        answer("call_2", parts),
        answer(),
        {"role": "assistant", "content": "20 degrees", "tool_calls": None},
        {"role": "assistant", "content": "x", "tool_calls": [], "reasoning_content": "hm"},
    ]
    found = template_messages(given)
    zurich, nothing = {"city": "Zürich"}, dict[str, Any]()
    assert found == [
        {"role": "system", "content": "a\nb"},
        {"role": "user", "content": "Weather?", "name": "Ann"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call(arguments=zurich), call("call_2", "get-time", nothing)],
        },
        {"role": "tool", "content": "a\nb", "tool_call_id": "call_2", "name": "get-time"},
        {"role": "tool", "content": "20", "tool_call_id": "call_1", "name": "weather"},
        {"role": "assistant", "content": "20 degrees"},
        {"role": "assistant", "content": "x", "reasoning_content": "hm"},
    ]
    assert given[2] == asked(call(), call("call_2", "get-time", ""), refusal=None), "what was given stays"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (HERMES, {"city": "Zürich"}),
        (QWEN_CODER, {"city": "Zürich"}),
        ("{{ tool_call.arguments | tojson }}", {"city": "Zürich"}),
        ("{{ '' + call.arguments | tojson + '' }}", {"city": "Zürich"}),
        ("{% if c.arguments is string %}{{ c.arguments }}{% else %}...{% endif %}", {"city": "Zürich"}),
        (DEEPSEEK_V31, '{"city": "Zürich"}'),
        ("{{ '```json' + '\\n' + tool['function']['arguments'] + '\\n' }}", '{"city": "Zürich"}'),
        ("{{- call.function.arguments -}}", '{"city": "Zürich"}'),
    ],
)  # fmt: skip
def test_arguments_are_objects_but_where_a_template_writes_them_as_text(source: str, expected: Any) -> None:
    found = template_messages([USER, asked(call())], source)
    assert found[1]["tool_calls"][0]["function"]["arguments"] == expected


def test_mistral_takes_ids_of_nine_letters() -> None:
    found = template_messages(
        [USER, asked(call(), call("abcDEF123")), answer(), answer("abcDEF123")], MISTRAL
    )
    first, second = (one["id"] for one in found[1]["tool_calls"])
    assert len(first) == 9 and first.isalnum() and second == "abcDEF123"
    assert [one["tool_call_id"] for one in found[2:]] == [first, second]
    assert first in ChatTemplate(MISTRAL).render(found)
    with pytest.raises(OutpaceError, match="ids have 9 letters"):
        ChatTemplate(MISTRAL).render(template_messages([USER, asked(call())]))


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"messages is \[\], accepted are lists of 1 message or more"),
        ("hi", r"messages is 'hi', accepted are lists"),
        (None, r"messages is None, accepted are lists"),
        (["hi"], r"messages\[0\] is 'hi', accepted are objects with role and content"),
        ([{"content": "x"}], r"\[0\]\.role is None, accepted are system, developer, user, assistant, tool"),
        ([{"role": "function", "content": "x"}], r"messages\[0\]\.role is 'function', accepted are"),
        ([USER, {"role": "user"}], r"messages\[1\]\.content is None, accepted are texts and lists of parts"),
        ([{"role": "assistant", "content": None}], r"messages\[0\]\.content is None"),
        ([{"role": "user", "content": 3}], r"messages\[0\]\.content is 3, accepted are texts"),
        ([{"role": "user", "content": ["x"]}], r"content\[0\] is of the type 'x', accepted is text"),
        (
            [USER, {"role": "user", "content": [{"type": "text", "text": "x"}, IMAGE]}],
            r"messages\[1\]\.content\[1\] is of the type 'image_url', accepted is text",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text is None, accepted"),
        ([{**USER, "tool_calls": [call()]}], r"messages\[0\]\.tool_calls is of the role user"),
        ([asked(tool_calls="x")], r"messages\[0\]\.tool_calls is 'x', accepted are lists of calls"),
        ([asked("x")], r"tool_calls\[0\] is 'x', accepted are objects with id, type and function"),
        ([asked({**call(), "type": "custom"})], r"calls\[0\]\.type is 'custom', accepted is \"function\""),
        ([asked({"id": "x"})], r"tool_calls\[0\]\.function is None, accepted are objects with a name"),
        ([asked(call(), call(id=""))], r"tool_calls\[1\]\.id is '', accepted are texts of a letter or more"),
        ([asked(call(name=""))], r"tool_calls\[0\]\.function\.name is '', accepted are texts"),
        ([asked(call(arguments="{"))], r"function\.arguments is '\{', accepted are JSON texts of objects"),
        ([asked(call(arguments="[]"))], r"function\.arguments is '\[\]', accepted are JSON texts"),
        ([asked(call(arguments={"a": 1}))], r"function\.arguments is \{'a': 1\}, accepted are JSON texts"),
        ([asked(call(arguments="[" * 100_000))], r"function\.arguments is '\[\[\["),
        ([answer()], r"tool_call_id is 'call_1', accepted are the ids of calls: none: no message before it"),
        ([asked(call()), answer("x")], r"messages\[1\]\.tool_call_id is 'x', accepted are .*: 'call_1'"),
        ([asked(call()), answer(None)], r"messages\[1\]\.tool_call_id is None"),
        ([asked(call()), answer(content=None)], r"messages\[1\]\.content is None"),
    ],
)  # fmt: skip
def test_refused(messages: Any, message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as error:
        template_messages(messages)
    assert "\n" not in str(error.value)
