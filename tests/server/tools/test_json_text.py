"""JSON letter by letter against Python's json."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.server.tools.json_text import MOST_DEPTH, JsonText, Malformed, whole_text

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
layouts = st.fixed_dictionaries({"indent": st.sampled_from([None, 1]), "ensure_ascii": st.booleans()})


def accepted(text: str) -> bool:
    try:
        whole_text(text)
    except Malformed:
        return False
    return True


@given(values, layouts)
def test_values_are_taken_as_they_are(value: object, layout: dict[str, bool]) -> None:
    text = json.dumps(value, **layout)  # type: ignore[arg-type]
    assert whole_text(text) == text
    reader = JsonText()
    for letter in text:
        assert not reader.closed
        assert reader.push(letter) == letter
    assert reader.closed or (isinstance(value, int | float) and reader.ends_before(""))
    if not isinstance(value, int | float) or isinstance(value, bool):
        with pytest.raises(Malformed):
            reader.push("x")


def by_python(text: str) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(text, parse_constant=refuse, strict=False)
    except ValueError:
        return False
    return True


@given(values, st.data())
def test_damaged_texts_are_judged_as_python_does(value: object, data: st.DataObject) -> None:
    text = json.dumps(value)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text)))
        letter = data.draw(st.sampled_from([*"{}[],:\"\\ \n\t0123.eE+-truefalsnu'x\x01é", ""]))
        text = text[:place] + letter + text[place + data.draw(st.integers(0, 1)) :]
    assert accepted(text) == by_python(text.strip(" \t\n\r"))


@pytest.mark.parametrize(
    "text",
    ["01", "-", "1.", ".5", "+1", "1e", "1e+", "NaN", "-Infinity", "tru", "nulll", "'a'", '"\\x"',
     '"\\u12g4"', "[1,]", "{,}", '{"a"}', '{"a":1,}', "{a:1}", "[1 2]", '{"a":1 "b":2}', "", "[",
     '"a', "{}}", "1 2"],
)  # fmt: skip
def test_malformed(text: str) -> None:
    assert not accepted(text) and not by_python(text)


def test_control_characters_in_strings_are_escaped() -> None:
    assert whole_text('{"a\n": "b\tc\x01\u2028"}') == '{"a\\n": "b\\tc\\u0001\u2028"}'
    assert json.loads(whole_text('"x\r\n"')) == "x\r\n"


def test_a_number_ends_where_it_can_not_go_on() -> None:
    number = JsonText()
    ends = []
    for letter in "-1.5":
        ends.append(number.ends_before("}"))
        number.push(letter)
    assert ends == [False, False, True, False]
    assert number.ends_before("}") and number.ends_before(" ") and number.ends_before("")
    assert not number.ends_before("0") and not number.ends_before("e")


def test_depth_is_bounded() -> None:
    assert accepted("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert not accepted("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1))
    assert not accepted("[" * 100_000)


def test_members_are_counted_at_their_colons() -> None:
    reader, seen = JsonText(), []
    for letter in '{"a:": {"b" : 1}}':
        reader.push(letter)
        seen.append(reader.members)
    assert seen == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
