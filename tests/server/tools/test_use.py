"""One request from its tools to the deltas of its text: prompt, shown tokens, reader and grammar together."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.engine.text import TextStream
from outpace.files.chat import ChatTemplate
from outpace.server.tools import Arguments, CallBegins, Content, template_messages, tool_use
from tests.byte_vocabulary import byte_tokenizer
from tests.server.tools import templates
from tests.server.tools.reading import KINDS
from tests.server.tools.templates import TEMPLATES

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}}}
SPECIAL = ("<|end|>", "<|tool_call|>", "[TOOL_CALLS]", "[ARGS]", "<think>")
TOKENIZER = byte_tokenizer(SPECIAL)
MESSAGES = template_messages([{"role": "user", "content": "?"}])


def said(source: str, text: str, **request: Any) -> list[Any]:
    """The deltas of a model's text, token by token."""
    use = tool_use(source, TOKENIZER, tools=[TOOL], **request)
    stream, reader = TextStream(TOKENIZER, shown=use.shown), use.reader()
    deltas = []
    for token in TOKENIZER.encode(text, add_special_tokens=False):
        deltas += reader.push(stream.push([token]))
    return [*deltas, *reader.push(stream.finish()), *reader.finish()]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("granite", '<|tool_call|>[{"name": "weather", "arguments": {"a": 1}}]<|end|>'),
        ("mistral-args", '[TOOL_CALLS]weather[ARGS]{"a": 1}<|end|>'),
        ("hermes", '<tool_call>{"name": "weather", "arguments": {"a": 1}}</tool_call><|end|>'),
    ],
)
def test_markers_are_seen_though_they_are_special(kind: str, text: str) -> None:
    deltas = said(TEMPLATES[kind], text)
    assert isinstance(deltas[0], CallBegins) and deltas[0].name == "weather"
    assert all(isinstance(delta, Arguments) for delta in deltas[1:])
    assert "".join(delta.text for delta in deltas[1:]) == '{"a": 1}'


def test_other_special_tokens_stay_hidden() -> None:
    use = tool_use(TEMPLATES["granite"], TOKENIZER, tools=[TOOL])
    assert {TOKENIZER.token(i) for i in use.shown} == {"<|tool_call|>"}
    deltas = said(TEMPLATES["granite"], "a<|end|>[ARGS]b")
    assert "".join(delta.text for delta in deltas) == "ab"


def test_ids_are_new_each_time_and_of_the_form_that_templates_take() -> None:
    for kind, form in (("hermes", "call_[a-zA-Z0-9]{24}"), ("mistral", "[a-zA-Z0-9]{9}")):
        reader = tool_use(TEMPLATES[kind], TOKENIZER, tools=[TOOL]).reader()
        one = '{"name": "weather", "arguments": {}}'
        deltas = reader.push(
            f"<tool_call>{one}</tool_call>" * 2 if kind == "hermes" else f"[TOOL_CALLS][{one}, {one}]"
        )
        ids = [delta.id for delta in deltas if isinstance(delta, CallBegins)]
        assert len(set(ids)) == 2 and all(re.fullmatch(form, id) for id in ids)


@pytest.mark.parametrize("request_", [{}, {"tools": [TOOL], "tool_choice": "none"}, {"tools": []}])
def test_without_tools_nothing_is_read_and_nothing_changes(request_: dict[str, Any]) -> None:
    use = tool_use(templates.NO_TOOLS, TOKENIZER, **request_)
    assert not use.variables and not use.shown and use.grammar() is None
    assert use.messages(MESSAGES) == MESSAGES
    text = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>\n'
    reader = use.reader()
    assert [*reader.push(text), *reader.finish()] == [Content(text[:-1]), Content("\n")]
    assert not tool_use(None, TOKENIZER).shown


def test_templates_are_told_of_tools_where_they_look_for_them() -> None:
    for source, name in ((templates.HERMES, "tools"), (templates.SMOLLM3, "xml_tools")):
        use = tool_use(source, TOKENIZER, tools=[TOOL])
        assert list(use.variables) == [name] and use.messages(MESSAGES) == MESSAGES
        assert '"name": "weather"' in ChatTemplate(source).render(MESSAGES, **use.variables)
    use = tool_use(templates.PHI_OWN, TOKENIZER, tools=[TOOL])
    assert use.variables == {}
    system = [{"role": "system", "content": "Be brief."}, *MESSAGES]
    for messages, content in ((MESSAGES, ""), (system, "Be brief.")):
        prompt = ChatTemplate(templates.PHI_OWN).render(use.messages(messages))
        head, told, _ = re.split(r"<\|/?tool\|>", prompt)
        assert head == f"<|system|>{content}"
        assert [one["name"] for one in json.loads(told)] == ["weather"]
        assert prompt.endswith("<|user|>?<|end|><|assistant|>")
    assert system[0] == {"role": "system", "content": "Be brief."}, "what was given stays"


def test_a_prompt_may_have_opened_thoughts() -> None:
    use = tool_use(templates.QWEN3, TOKENIZER, tools=[TOOL])
    text = '<tool_call>{"name": "weather"}</tool_call>'
    calls = [
        sum(isinstance(delta, CallBegins) for delta in use.reader(prompt).push(text))
        for prompt in ("", "A:<think>\n", "A:<think>\n\n</think>\n\n")
    ]
    assert calls == [1, 0, 1]


def test_one_call_alone() -> None:
    one = '<tool_call>{"name": "weather", "arguments": {}}</tool_call>'
    for parallel, number in ((True, 2), (None, 2), (False, 1)):
        use = tool_use(templates.HERMES, TOKENIZER, tools=[TOOL], parallel_tool_calls=parallel)
        reader = use.reader()
        reader.push(one + one)
        assert (reader.num_calls, reader.done) == (number, parallel is False)
        assert use.grammar() is None, "the model is free to call nothing"


@pytest.mark.parametrize("kind", ["hermes", "granite", "mistral-args"])
def test_the_grammar_is_that_of_the_request(kind: str) -> None:
    """What the grammars themselves take is tested with llguidance."""
    other = {"type": "function", "function": {"name": "get-time"}}
    both = {"weather": {"properties": {}, "type": "object"}}
    both["get-time"] = {"type": "object", "properties": {}, "additionalProperties": False}  # type: ignore[dict-item]
    special = {text: i for i, text in enumerate(SPECIAL, start=256) if text in KINDS[kind].markers}
    assert len(special) == {"hermes": 0, "granite": 1, "mistral-args": 2}[kind]

    def grammar(source: str, choice: Any = "required", parallel: bool | None = None, prompt: str = "") -> str:
        asked = {"tool_choice": choice, "parallel_tool_calls": parallel}
        text = tool_use(source, TOKENIZER, tools=[TOOL, other], **asked).grammar(prompt)
        assert text is not None
        return text

    source, expected = TEMPLATES[kind], KINDS[kind].grammar
    assert grammar(source) == expected(both, special=special)
    assert grammar(source, parallel=False) == expected(both, special=special, parallel=False)
    named = grammar(source, {"type": "function", "function": {"name": "get-time"}})
    assert named == expected({"get-time": both["get-time"]}, special=special, parallel=False)
    source += "{# <think> #}"
    special["<think>"] = TOKENIZER.token_id("<think>") or 0
    assert grammar(source) == expected(both, special=special, may_think=True)
    assert grammar(source, prompt="<think>\n") == expected(both, special=special, thinks=True)


@pytest.mark.parametrize("source", [None, templates.NO_TOOLS, "{{ tools }}<|tool_call>call:f{}<tool_call|>"])
def test_templates_without_tools_refuse_them(source: str | None) -> None:
    with pytest.raises(
        OutpaceError, match=r"tools is given.*accepted are calls of the kinds hermes, qwen"
    ) as error:
        tool_use(source, TOKENIZER, tools=[TOOL])
    assert "\n" not in str(error.value)
