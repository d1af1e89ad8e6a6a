"""JSON objects of files that may come from strangers: anything else is a FormatError of one line.

Python's reader takes up to about 16 times the memory of the text, so the length of a text is bounded. The
reader itself bounds depth and the digits of a number.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from outpace.core.errors import FormatError
from outpace.files.regular import open_regular

MAX_BYTES = 16 << 20  # ten times the longest that models of the supported families come with


def json_file(path: Path) -> dict[str, Any]:
    """The JSON object in a file; FormatError where there is none."""
    return json_object(_text(path), str(path))


def json_list(path: Path) -> list[dict[str, Any]]:
    """The JSON list of objects in a file; FormatError where there is none."""
    value = _value(_text(path), str(path))
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise FormatError(f"{path} does not hold a JSON list of objects")
    return value


def json_object(text: bytes, what: str, *, unique: bool = False) -> dict[str, Any]:
    """The object of a JSON text in UTF-8; `unique` refuses an object that names a key twice.

    FormatError, which calls the text `what`, for anything else, for strings that are no Unicode (half of a
    surrogate pair) and for more than MAX_BYTES.
    """
    value = _value(text, what, unique=unique)
    if not isinstance(value, dict):
        raise FormatError(f"{what} does not hold a JSON object")
    return value


def _text(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(MAX_BYTES + 1)
    except FormatError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise FormatError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _value(text: bytes, what: str, *, unique: bool = False) -> Any:
    if len(text) > MAX_BYTES:
        raise FormatError(f"{what} is longer than the {MAX_BYTES} bytes of JSON that are read")
    try:
        return json_value(text, unique=unique)
    except ValueError as error:
        raise FormatError(f"{what} is not valid JSON: {error}") from None


def json_value(text: bytes | str, *, unique: bool = False, file_names: bool = False) -> Any:
    """The value of a JSON text, in UTF-8 where it is bytes; ValueError for anything else.

    `file_names`: strings may be names whose bytes are not UTF-8, as Python writes them.
    """
    try:
        letters = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(letters, object_pairs_hook=_unique if unique else None)
        if "\\u" in letters:  # the only way in for half of a surrogate pair
            errors = "surrogateescape" if file_names else "strict"
            json.dumps(value, ensure_ascii=False).encode(errors=errors)
    except UnicodeError:
        raise ValueError("it holds text that is no Unicode") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        raise ValueError(f"{twice!r} appears twice")
    return found
