"""Messages for a user: one line that a terminal may print, whatever a file made them quote."""

from __future__ import annotations

import pickle

import pytest

from outpace.core.errors import FormatError, OutpaceError, PromptTooLong


@pytest.mark.parametrize("kind", [OutpaceError, FormatError, PromptTooLong])
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("accepted: 1 to 3", "accepted: 1 to 3"),
        ("žluť and 日本語 stay", "žluť and 日本語 stay"),
        ("two\nlines\r\nand a\ttab", "two lines and a tab"),
        ("\x1b[2Jclears\x07 the screen\x9b31m", r"\x1b[2Jclears\x07 the screen\x9b31m"),
        ("half a pair \ud800, to the left \u202e", r"half a pair \ud800, to the left \u202e"),
    ],
)
def test_a_message_is_one_printable_line(kind: type[OutpaceError], said: str, shown: str) -> None:
    error = kind(said)
    assert str(error) == shown and shown.isprintable()
    assert str(kind(shown)) == shown and str(pickle.loads(pickle.dumps(error))) == shown


def test_a_message_has_an_end() -> None:
    text = str(FormatError("begin " + "x" * 10**6 + " end"))
    assert len(text) < 3000 and text.startswith("begin x") and text.endswith("x end")
