"""Reading a corpus: every kind of line, plain text in pieces, and what is refused."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.files import corpus
from outpace.files.corpus import read_corpus
from tests.special_files import SPECIAL


def letters(text: str) -> list[int]:
    return [ord(letter) % 256 for letter in text]


def read(*paths: Path, **options: Any) -> list[list[int]]:
    return list(read_corpus(paths, letters, vocab_size=256, **options))


def test_objects_of_every_kind(tmp_path: Path) -> None:
    lines = [
        {"text": "ab", "other": 1},
        {"token_ids": [1, 2, 3], "text": "the ids go first"},
        {"turns": ["c", "d"]},
        {"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}]},
    ]
    path = tmp_path / "x.jsonl"
    path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
    assert read(path) == [letters("ab"), [1, 2, 3], *map(letters, "cdef")]


@pytest.mark.parametrize("text", ["one two three four five", "x" * 50, "ab " * 9, "        "])
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_long_texts_are_encoded_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, suffix: str
) -> None:
    """What the library needs for a text is hundreds of times the text, so it never gets a long one."""
    monkeypatch.setattr(corpus, "MOST_LETTERS", 8)
    path = tmp_path / f"x.{suffix}"
    path.write_text(text if suffix == "txt" else json.dumps({"text": text}))
    seen: list[str] = []

    def encode(part: str) -> list[int]:
        seen.append(part)
        return letters(part)

    assert list(read_corpus([path], encode, vocab_size=256)) == [letters(text)]
    assert max(map(len, seen)) <= 8 and "".join(seen) == text
    if "one" in text:
        assert seen[:2] == ["one two", " three"]


def test_plain_text_comes_in_pieces_of_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PIECE_BYTES", 8)
    path = tmp_path / "x.txt"
    path.write_text("äöü\nab\ncdefgh\n\nij", encoding="utf-8")
    pieces = read(path)
    assert list(chain(*pieces)) == letters("äöü\nab\ncdefgh\n\nij")
    assert len(pieces) > 1 and all(piece[-1] == ord("\n") for piece in pieces[:-1])


def test_progress_counts_all_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    paths[0].write_text("abc\n")
    paths[1].write_text('{"text": "x"}\n')
    seen: list[tuple[int, int, str]] = []
    read(*paths, progress=lambda *call: seen.append(call))
    total = sum(path.stat().st_size for path in paths)
    assert seen[-1] == (total, total, "reading b.jsonl") and seen[0] == (4, total, "reading a.txt")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON .*nested"),
        ('{"text": "\\ud800"}', "line 2: not JSON .*no Unicode"),
        ('{"token_ids": [' + "9" * 5000 + "]}", "line 2: not JSON"),
        ('{"token_ids": [10000000000000000000000]}', "line 2: token_ids are not all from 0 to 255"),
        ("[]", "line 2: expected an object"),
        ('{"prompt": "a"}', "line 2: expected an object"),
        ('{"turns": "abc"}', "line 2: expected an object"),
        ('{"turns": ["a", 1]}', "line 2: expected an object"),
        ('{"messages": ["a"]}', "line 2: expected an object"),
        ('{"token_ids": [1, "a"]}', "line 2: expected an object"),
        ('{"token_ids": [true]}', "line 2: expected an object"),
        ('{"token_ids": [1, 256]}', "line 2: token_ids are not all from 0 to 255"),
        ('{"token_ids": [-1]}', "line 2: token_ids are not all from 0 to 255"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n' + line + "\n")
    with pytest.raises(OutpaceError, match=why):
        read(path)


@pytest.mark.parametrize("name", ["x.txt", "x.jsonl"])
def test_bytes_that_are_no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b'{"text": "\xff\xfe"}\n')
    with pytest.raises(OutpaceError, match="not UTF-8"):
        read(tmp_path / name)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match=r"cannot read .*missing\.txt"):
        read(tmp_path / "missing.txt")
    for kind, make in SPECIAL.items():
        for name in (f"{kind}.txt", f"{kind}.jsonl"):
            make(tmp_path / name)
            with pytest.raises(OutpaceError, match=f"{name} is not a regular file"):
                read(tmp_path / name)
