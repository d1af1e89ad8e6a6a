"""The texts of a corpus as token ids, from plain text and from JSON lines, a piece at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.files.json_files import json_value
from outpace.files.regular import open_regular
from outpace.progress import Progress

PIECE_BYTES = 1 << 16
"""A plain text is cut at the first end of a line after this many bytes, so that no file is read whole."""

MOST_LETTERS = 1 << 18
"""The longest text that is encoded at once, which takes about 300 times its size in memory."""

_EXPECTED = (
    "an object with text (a text), token_ids (a list of ids), turns (a list of texts) or messages "
    "(a list of objects with content)"
)


def read_corpus(
    paths: Sequence[Path],
    encode: Callable[[str], list[int]],
    *,
    vocab_size: int,
    progress: Progress | None = None,
) -> Iterator[list[int]]:
    """Token ids, text by text. Files named .jsonl or .json hold an object a line, others are plain text.

    `progress(done, total, label)` counts bytes. OutpaceError, with file and line, for anything else.
    """
    try:
        total = sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise OutpaceError(f"cannot read {error.filename}: {error.strerror}") from error
    done = 0
    for path in paths:
        read = _json_lines if path.suffix in (".jsonl", ".json") else _pieces
        try:
            for number, num_bytes, found in read(path):
                for text in found:
                    if isinstance(text, str):
                        yield _ids(text, encode)
                    else:
                        yield _checked(text, path, number, vocab_size)
                done += num_bytes
                if progress is not None:
                    progress(done, total, f"reading {path.name}")
        except UnicodeDecodeError as error:
            raise OutpaceError(f"cannot read {path}: it is not UTF-8 text") from error
        except OSError as error:
            raise OutpaceError(f"cannot read {path}: {error.strerror}") from error


Found = tuple[int, int, Sequence[str | list[int]]]
"""Number of the line, bytes read, texts."""


def _ids(text: str, encode: Callable[[str], list[int]]) -> list[int]:
    """Token ids, those of each part in turn; parts end before a space where there is one."""
    ids: list[int] = []
    at = 0
    while len(text) - at > MOST_LETTERS:
        space = text.rfind(" ", at + MOST_LETTERS // 2, at + MOST_LETTERS)
        end = at + MOST_LETTERS if space < 0 else space
        ids += encode(text[at:end])
        at = end
    return ids + encode(text[at:])


def _pieces(path: Path) -> Iterator[Found]:
    with open_regular(path) as file:
        while lines := file.readlines(PIECE_BYTES):
            piece = b"".join(lines)
            yield 0, len(piece), [piece.decode()]


def _json_lines(path: Path) -> Iterator[Found]:
    with open_regular(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    item = json_value(line.decode("utf-8-sig"))
                except UnicodeDecodeError:
                    raise
                except ValueError as error:
                    raise OutpaceError(
                        f"{path}, line {number}: not JSON ({error}); expected {_EXPECTED}"
                    ) from None
                texts = _texts(item)
                if texts is None:
                    raise OutpaceError(f"{path}, line {number}: expected {_EXPECTED}")
                yield number, len(line), texts


def _texts(item: Any) -> Sequence[str | list[int]] | None:
    """The texts of one object; None where it has none. Ids first: they are what a model really wrote."""
    if not isinstance(item, dict):
        return None
    if isinstance(ids := item.get("token_ids"), list):
        return [ids] if all(type(i) is int for i in ids) else None
    if isinstance(text := item.get("text"), str):
        return [text]
    texts = item.get("turns")
    if isinstance(messages := item.get("messages"), list):
        texts = [message.get("content") if isinstance(message, dict) else None for message in messages]
    return texts if isinstance(texts, list) and all(isinstance(text, str) for text in texts) else None


def _checked(ids: list[int], path: Path, number: int, vocab_size: int) -> list[int]:
    if ids and not 0 <= min(ids) <= max(ids) < vocab_size:
        raise OutpaceError(f"{path}, line {number}: token_ids are not all from 0 to {vocab_size - 1}")
    return ids
