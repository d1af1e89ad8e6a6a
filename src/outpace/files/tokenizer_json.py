"""The file tokenizer.json, checked before the `tokenizers` library reads it.

The library makes tables as long as the highest id, lets a pattern write any text for one character, and
panics on some files: that is no Exception in Python, and it prints several lines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from outpace.core.errors import FormatError
from outpace.files.json_files import json_value
from outpace.files.regular import open_regular

_MAX_GAP = 1 << 16  # ids that no token has
_MAX_GROWTH = 256  # characters for one of a text


def read_tokenizer_json(path: Path) -> tokenizers.Tokenizer:
    """The library's tokenizer of a file. Raises FormatError, in one line."""
    try:
        with open_regular(path) as file:
            text = file.read().decode("utf-8-sig")
        value = json_value(text, unique=True)
    except OSError as error:
        raise FormatError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: not a tokenizer of the `tokenizers` library: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("model"), dict):
        raise FormatError(f"{path}: not a tokenizer of the `tokenizers` library: it has no model")
    try:
        _check_ids(value)
        for name in ("normalizer", "decoder"):
            if _growth(value.get(name)) > _MAX_GROWTH:
                raise FormatError(f"{name} writes more than {_MAX_GROWTH} characters for one")
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    with _nothing_printed():
        backend = parse_tokenizer(text, name=str(path))
        try:
            backend.encode("A b1, é\n", add_special_tokens=False)
        except Exception:  # such as an unknown character: other texts may do
            pass
        except BaseException as error:
            raise FormatError(
                f"{path}: the tokenizer fails on a short text: {library_error(error)}"
            ) from None
    return backend


def parse_tokenizer(text: str, *, name: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a text that can be trusted with memory. Raises FormatError, in one line."""
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        backend.no_truncation()
        backend.no_padding()
        backend.encode("", add_special_tokens=True)
    except BaseException as error:
        line = library_error(error)
        raise FormatError(f"{name}: not a tokenizer of the `tokenizers` library: {line}") from None
    return backend


def library_error(error: BaseException) -> str:
    """What the library says, in one line. Raises again what is not of the library, such as Ctrl-C."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error
    return " ".join(str(error).split())


def _check_ids(value: dict[str, Any]) -> None:
    vocab = value["model"].get("vocab")
    listed = value.get("added_tokens")
    added = [token for token in listed if isinstance(token, dict)] if isinstance(listed, list) else []
    named = [("model.vocab", text, i) for text, i in vocab.items()] if isinstance(vocab, dict) else []
    named += [("added_tokens", token.get("content"), token.get("id")) for token in added]
    unnamed = len(vocab) if isinstance(vocab, list) else 0
    most = 2 * (len(named) + unnamed) + _MAX_GAP
    for field, text, token in named:
        if isinstance(token, int) and not 0 <= token < most:
            raise FormatError(f"{field} gives {text!r} the id {token}; accepted: 0 to {most - 1}")


def _growth(step: Any) -> float:
    """The most characters that a normalizer or decoder writes for one."""
    if not isinstance(step, dict):
        return 1
    growth = 1.0
    for inner in (step.get("normalizers"), step.get("decoders")):
        for one in inner if isinstance(inner, list) else []:
            growth = min(growth * _growth(one), 1e9)
    content, pattern = step.get("content"), step.get("pattern")
    if step.get("type") == "Replace" and isinstance(content, str):
        literal = pattern.get("String") if isinstance(pattern, dict) else None
        known = isinstance(literal, str) and literal
        growth *= max(1, len(content) / len(known)) if known else 1 + len(content)
    if step.get("type") == "Prepend" and isinstance(step.get("prepend"), str):
        growth *= 1 + len(step["prepend"])
    return growth


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keeps a panic of the library off the terminal: it writes to descriptor 2 itself."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
