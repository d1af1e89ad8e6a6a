"""JSON of files: an object, or one clear error, in bounded memory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from outpace.core.errors import FormatError
from outpace.files.json_files import MAX_BYTES, json_file, json_object, json_value
from tests.special_files import SPECIAL

GOOD = {"a": [1, 2.5, None, True], "ž": {"😀": "\n"}}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD).encode(),  # with a surrogate pair, which is one letter
        json.dumps(GOOD, ensure_ascii=False).encode(),
        json.dumps(GOOD, ensure_ascii=False).encode("utf-8-sig"),  # as some editors write it
    ],
)
def test_an_object_is_read(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "x.json").write_bytes(text)
    assert json_file(tmp_path / "x.json") == json_object(text, "it", unique=True) == GOOD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"{}x", "not valid JSON"),
        (b"[" * 10**6, "not valid JSON"),
        (b'{"a":' * 10**5, "not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (b"\xff\xfe{\0}\0", "is no Unicode"),
        (b'{"a": "\\ud800"}', "is no Unicode"),
        (b'{"a": [{"\\uDFFF\\ud800": 1}]}', "is no Unicode"),
        (b'{"a": "\xed\xa0\x80"}', "is no Unicode"),
        (b"[]", "does not hold a JSON object"),
        (b'"text"', "does not hold a JSON object"),
        (b"NaN", "does not hold a JSON object"),
        (b" " * (MAX_BYTES + 1), "longer than the 16777216 bytes"),
    ],
)
def test_a_fault_is_one_clear_error(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(FormatError, match=message) as caught:
        json_file(tmp_path / "x.json")
    assert "x.json" in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("text", [b'{"a": 1, "a": 2}', b'{"b": {"x": 1, "y": 2, "\\u0078": 3}}'])
def test_keys_that_appear_twice_are_refused_where_asked(text: bytes) -> None:
    assert json_object(text, "it")
    with pytest.raises(FormatError, match="appears twice"):
        json_object(text, "it", unique=True)


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files_are_one_clear_error(tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / "x.json")
    with pytest.raises(FormatError, match="not a regular file"):
        json_file(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["absent", "x" * 300, "nul\0"])
def test_what_is_no_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FormatError, match="cannot read"):
        json_file(tmp_path / name)


def test_names_of_files_may_hold_any_bytes_but_no_other_halves() -> None:
    text = json.dumps({"a": os.fsdecode(b"caf\xe9"), "\u65e5": "\U0001f30a"})
    assert json_value(text, file_names=True) == json.loads(text)
    for value, file_names in ((text, False), ('"\\ud800"', True), ('"\\udc7f"', True)):
        with pytest.raises(ValueError, match="no Unicode"):
            json_value(value, file_names=file_names)
