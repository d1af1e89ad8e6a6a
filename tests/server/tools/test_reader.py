"""What all readers have in common: nothing is lost, nothing depends on the cuts, content flows at once."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.server.tools.deltas import Arguments, CallBegins, Content, Delta, merged
from tests.server.tools.reading import KINDS, Said, read, reader_of, summed
from tests.server.tools.templates import D_ALL, D_END_ALL, D_END_ONE, D_ONE, D_SEPARATOR

PIECES = [
    "<tool_call>", "</tool_call>", "<|tool_call|>", "<|/tool_call|>", "functools", "<|python_tag|>", ";",
    "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", D_ALL, D_ONE, D_SEPARATOR, D_END_ONE, D_END_ALL, "function",
    "<function=weather>", "<function=", "<parameter=city>", "<parameter=days>", "</parameter>", "</function>",
    "```json", "<think>", "</think>", "[", "]", "{", "}", ",", '"name": "weather"', '"name": "nobody"',
    '"arguments": {}', '"parameters": {"city": "a}"}', '"arguments": {"city":', '"x"', "{}", "\n", " ",
    '{"name": "weather", "arguments": {"city": "Bern"}}', '{"arguments": {"a": [1]}, "name": "get-time"}',
    '{"name": "weather", "arguments": "{\\"city\\": 1}"}', '"arguments": 12}', "\\", "<", "To", "12",
    "é 🌊", "weather",
]  # fmt: skip
texts = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@pytest.mark.parametrize("kind", KINDS)
def test_cuts_change_nothing(kind: str) -> None:
    @settings(max_examples=40)
    @given(text=texts, cuts=st.lists(st.integers(0, 12), max_size=12), most=st.none() | st.just(1))
    def check(text: str, cuts: list[int], most: int | None) -> None:
        pieces, rest = [], text
        for size in cuts:
            pieces.append(rest[:size])
            rest = rest[size:]
        said = summed(reader_of(kind, most_calls=most), [*pieces, rest])
        assert said == read(kind, text, most_calls=most)
        assert most is None or len(said.calls) <= most

    check()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=texts)
def test_where_no_function_is_known_all_is_content(kind: str, text: str) -> None:
    """To the letter, whatever it looks like."""
    assert read(kind, text, schemas={}) == Said(text)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(text=texts)
def test_arguments_are_json_and_content_is_of_the_text(kind: str, text: str) -> None:
    said = read(kind, text)
    for _, arguments in said.calls[:-1]:
        if arguments.endswith("}") and not said.content:
            assert isinstance(json.loads(arguments), dict)
    letters = iter(text)
    assert all(letter in letters for letter in said.content), "content is the text, parts left out"


def test_content_flows_before_anything_that_may_be_a_marker() -> None:
    reader = reader_of("hermes")
    assert reader.push("It is <b>bold</b> <to") == [Content("It is <b>bold</b>")]
    assert reader.push("ol_cat") == [Content(" <tool_cat")]
    assert reader.push("\n\n<tool_call") == [] and reader.push("X") == [Content("\n\n<tool_callX")]
    assert reader.push("  ") == [] and reader.finish() == [Content("  ")]


def test_arguments_stream_as_they_come() -> None:
    reader = reader_of("hermes")
    assert reader.push('<tool_call>\n{"name": "weather", "arguments": {"city"') == []
    begins = CallBegins(0, "id0", "weather")
    assert reader.push(": ") == [begins, Arguments(0, '{"city": ')]
    assert reader.push('"Z') == [Arguments(0, '"Z')]
    assert reader.push("ür\\u00") == [Arguments(0, "ür\\u00")]
    assert reader.push('e9}"') == [Arguments(0, 'e9}"')]
    assert reader.push("}") == [Arguments(0, "}")]
    assert reader.push("}\n</tool_call>\n") == [] and reader.finish() == []


def test_other_json_is_held_for_its_first_name_alone() -> None:
    reader = reader_of("json")
    assert reader.push('{"cit') == [] and reader.push('y": 1') == [Content('{"city": 1')]
    assert reader.push('}\n[{"name": "weather", "arg') == [Content("}")]
    assert reader.push('s"') == [Content('\n[{"name": "weather", "args"')]


def test_whitespace_around_calls_is_no_content() -> None:
    one = '<tool_call>\n{"name": "get-time", "arguments": {}}\n</tool_call>'
    said = read("hermes", f"\n\nFirst.\n\n{one}\n\n{one}\nThen  \n")
    assert said == Said("\n\nFirst.\nThen  \n", [("get-time", "{}")] * 2)
    assert read("hermes", f"\n{one}\n \n") == Said("", [("get-time", "{}")])


def test_thoughts_are_content_and_hold_no_call() -> None:
    one = '<tool_call>{"name": "get-time"}</tool_call>'
    said = read("hermes", f"<think>\nI could {one} this.</think>\n{one}")
    assert said == Said(f"<think>\nI could {one} this.</think>", [("get-time", "{}")])
    assert read("hermes", f"Well, {one}</think>{one}", thinks=True) == Said(
        f"Well, {one}</think>", [("get-time", "{}")]
    )
    assert read("hermes", f"<think>{one}") == Said(f"<think>{one}"), "thoughts that never end"
    bare = '{"name": "get-time", "arguments": {}}'
    assert read("json", f"<think>{bare}</think>{bare}").calls == [("get-time", "{}")]


@pytest.mark.parametrize("most", [1, 2])
def test_the_text_is_cut_behind_the_last_call_that_may_be(most: int) -> None:
    one = '<tool_call>{"name": "get-time", "arguments": {}}</tool_call>'
    reader = reader_of("hermes", most_calls=most)
    for number in range(most):
        assert not reader.done
        reader.push(one[:-13])
        assert reader.done == (number == most - 1)
        reader.push(one[-13:])
    assert reader.push(f" more {one}") == [] and reader.finish() == [] and reader.num_calls == most


def test_what_has_begun_stays_and_what_follows_is_content() -> None:
    said = read("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "a" "b"}}</tool_call>')
    assert said == Said('"b"}}</tool_call>', [("weather", '{"city": "a" ')])
    assert read("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "a') == Said(
        "", [("weather", '{"city": "a')]
    ), "the text ends in the middle"


def test_a_marker_behind_what_was_no_call_is_seen() -> None:
    one = '<tool_call>{"name": "get-time"}</tool_call>'
    for before in ("<tool_call>", "<tool_call>[", '<tool_call>{"name": 12', "<<tool_c", "<tool_call><think"):
        assert read("hermes", before + one) == Said(before, [("get-time", "{}")])


def test_a_long_answer_is_read_in_one_piece() -> None:
    text = "word <b> {x} [y]\n" * 500
    for kind in KINDS:
        assert summed(reader_of(kind), [text]).content == text


def test_deltas_of_one_kind_are_put_together() -> None:
    begins: list[Delta] = [CallBegins(0, "a", "f"), CallBegins(1, "b", "f")]
    apart: list[Delta] = [
        Content("a"),
        Content("b"),
        begins[0],
        Arguments(0, "{"),
        Arguments(0, "}"),
        begins[1],
    ]
    assert merged([*apart, Arguments(1, "{}"), Content("c")]) == [
        Content("ab"), begins[0], Arguments(0, "{}"), begins[1], Arguments(1, "{}"), Content("c"),
    ]  # fmt: skip
    assert merged([*begins, Arguments(0, "x"), Arguments(1, "y")]) == [
        *begins, Arguments(0, "x"), Arguments(1, "y"),
    ]  # fmt: skip
