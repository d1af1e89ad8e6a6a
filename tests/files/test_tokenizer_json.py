"""Hostile tokenizer.json files: one line each, no memory for ids that nobody has, nothing printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken, models, normalizers

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.tokenizer import Tokenizer
from outpace.files.tokenizer_json import library_error

BPE: dict[str, Any] = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


def added(token: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": "<x>", "special": True, **flags}


def replace(old: str, new: str, times: int = 1) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": old}, "content": new}
    return {"type": "Sequence", "normalizers": [step] * times, "decoders": [step] * times}


def write(folder: Path, **parts: Any) -> Path:
    value = {"version": "1.0", "added_tokens": [], "model": BPE} | parts
    (folder / "tokenizer.json").write_text(json.dumps(value))
    return folder


def test_the_file_without_a_fault(tmp_path: Path) -> None:
    ours = Tokenizer.from_folder(write(tmp_path, added_tokens=[added(3)], normalizer=replace(" ", "▁")))
    assert ours.encode("ab<x>", add_special_tokens=False) == [2, 3]


@pytest.mark.parametrize("token", [2**16 + 100, 2**31 - 1, 2**32 - 1, 2**40])
@pytest.mark.parametrize("field", ["model.vocab", "added_tokens"])
def test_an_id_far_beyond_the_tokens_is_refused(tmp_path: Path, token: int, field: str) -> None:
    parts: dict[str, Any] = {"added_tokens": [added(token)]}
    if field == "model.vocab":
        parts = {"model": BPE | {"vocab": BPE["vocab"] | {"far": token}}}
    with pytest.raises(FormatError, match=f"{field} gives '.*' the id {token}; accepted: 0 to 655"):
        Tokenizer.from_folder(write(tmp_path, **parts))


def test_a_key_that_comes_twice_hides_no_id(tmp_path: Path) -> None:
    text = write(tmp_path).joinpath("tokenizer.json").read_text()
    twice = text.replace(
        '"model"', '"model": {"type": "BPE", "vocab": {"a": 4000000000}, "merges": []}, "model"'
    )
    (tmp_path / "tokenizer.json").write_text(twice)
    with pytest.raises(FormatError, match="'model' appears twice"):
        Tokenizer.from_folder(tmp_path)


def test_ids_with_gaps_are_fine(tmp_path: Path) -> None:
    ours = Tokenizer.from_folder(write(tmp_path, model=BPE | {"vocab": BPE["vocab"] | {"far": 60_000}}))
    assert ours.vocab_size == 60_001 and ours.token(60_000) == "far"


@pytest.mark.parametrize("other", [1, 2.5, True, [], {}, [[]], "x"])
def test_other_types_than_the_library_reads_are_one_line(tmp_path: Path, other: Any) -> None:
    """Nodes of the file are looked at before the library has checked them."""
    step = {"type": "Replace", "pattern": {"String": other}, "content": "ab"}
    for parts in (
        {"normalizer": step},
        {"decoder": {"type": "Sequence", "decoders": [step, other]}},
        {"normalizer": {"type": "Sequence", "normalizers": other}},
        {"normalizer": {"type": "Prepend", "prepend": other}},
        {"model": BPE | {"vocab": other}},
        {"added_tokens": other},
        {"added_tokens": [other]},
        {"added_tokens": [added(3) | {"id": other}]},
        {"added_tokens": [added(3) | {"content": other}]},
        {"model": other},
        {"model": BPE | {"merges": other}},
        {"pre_tokenizer": {"type": "Split", "pattern": other}},
    ):
        try:
            made = Tokenizer.from_folder(write(tmp_path, **parts))
        except FormatError:
            continue
        assert made.vocab_size >= 1


@pytest.mark.parametrize("name", ["normalizer", "decoder"])
@pytest.mark.parametrize("step", [replace("a", "aa", 30), replace("a", "b" * 10_000), replace("", "b" * 300)])
def test_a_text_that_would_grow_without_end_is_refused(tmp_path: Path, name: str, step: Any) -> None:
    with pytest.raises(FormatError, match=f"{name} writes more than 256 characters for one"):
        Tokenizer.from_folder(write(tmp_path, **{name: step}))


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": BPE | {"continuing_subword_prefix": "éé"}},
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        {
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "z", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            }
        },
        {"pre_tokenizer": SPLIT | {"pattern": {"Regex": "(("}}},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 9}},
        {"model": BPE | {"merges": [["a", "zz"]]}},
        {"model": BPE | {"vocab": {"a": "0"}}},
        {"model": BPE | {"vocab": {"a": -1}}},
        {"model": None},
        {"model": []},
        {"added_tokens": {}},
    ],
)
def test_what_the_library_refuses_or_panics_on_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], parts: dict[str, Any]
) -> None:
    with pytest.raises(FormatError, match=r"tokenizer\.json: ") as caught:
        Tokenizer.from_folder(write(tmp_path, **parts))
    assert "\n" not in str(caught.value) and capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "data",
    [b"", b"[1]", b"\xff{}", b'{"model":' * 90_000, b"1" * 5000, b'{"model": {"vocab": {"\\ud800": 0}}}'],
)
def test_files_that_are_no_json_object(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(FormatError, match=r"tokenizer\.json") as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(FormatError, match="is not a regular file"):
        Tokenizer.from_folder(tmp_path)


def test_a_declared_id_of_many_digits(tmp_path: Path) -> None:
    declared = {"9" * 5000: {"content": "<y>"}, str(2**31): {"content": "<z>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": declared}))
    with pytest.raises(FormatError, match=f"'<z>' cannot have the id {2**31}"):
        Tokenizer.from_folder(write(tmp_path))


def test_a_text_that_the_tokenizer_cannot_take_is_one_line(tmp_path: Path) -> None:
    """Some vocabularies have no token for what they do not know, and some patterns give up."""
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    endless = SPLIT | {"pattern": {"Regex": "(a+)+b"}}
    for parts, text in (({"model": words}, "b"), ({"pre_tokenizer": endless}, "a" * 40)):
        ours = Tokenizer.from_folder(write(tmp_path, **parts))
        for parse in (True, False):
            with pytest.raises(OutpaceError, match="the tokenizer fails on the text: ") as caught:
                ours.encode(text, add_special_tokens=True, parse_special=parse)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(2), GeneratorExit()])
def test_what_is_not_of_the_library_goes_on(error: BaseException) -> None:
    with pytest.raises(type(error)):
        library_error(error)


def test_decoders_that_panic_in_the_library_decode_here() -> None:
    backend = tokenizers.Tokenizer(models.BPE({"a": 0, "": 1}, []))
    backend.normalizer = normalizers.NFC()
    backend.decoder = tokenizers.decoders.Strip("a", 0, 3)
    backend.add_tokens([AddedToken("baaaa")])
    assert Tokenizer(backend).decode([0, 1, 2]) == "ba"
