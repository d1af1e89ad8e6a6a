"""The errors that are meant for a user: a bad file, option or name.

The command line prints `error: <message>` and exits with status 2 for each of them. Everything else is a bug.
"""

from __future__ import annotations

_MOST_LETTERS = 2000


class OutpaceError(ValueError):
    """An error meant for a user. Its message is one line and names what would have been accepted.

    What a message quotes may come from a stranger's file: control characters are written out, so that none
    reaches a terminal, and the middle of a message without end is left out.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


class FormatError(OutpaceError):
    """A model file that is truncated, malformed or of a kind that cannot be read."""


class CacheFull(OutpaceError):
    """No room is left for keys and values until a row is given back."""


class GrammarError(OutpaceError):
    """A grammar that cannot be read, or is too much to be followed."""


class PromptTooLong(OutpaceError):
    """A prompt (with the tokens asked for) that does not fit into the model's context."""


def one_line(text: str) -> str:
    """A text as a message shows it."""
    if len(text) > _MOST_LETTERS:
        half = _MOST_LETTERS // 2
        text = f"{text[:half]} ... {text[-half:]}"
    if text.isprintable():
        return text
    text = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
