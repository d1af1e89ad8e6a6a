"""Where a text ends that may have so many calls and no more: with the token that makes the last one whole."""

from __future__ import annotations

from collections.abc import Sequence

from outpace.engine.text import TextStream
from outpace.server.tools.reader import Reader


class LastCall:
    """Of one request: see `Request.stops`. It reads the text by itself, token by token, as it is kept."""

    def __init__(self, reader: Reader, text: TextStream, first: int) -> None:
        """`reader` and `text` are its own from then on; `first`: how many tokens are the prompt."""
        self._reader = reader
        self._text = text
        self._read = first

    def __call__(self, tokens: Sequence[int]) -> bool:
        """Whether no call may follow these tokens, which are those of the last time and more."""
        self._reader.push(self._text.push(tokens[self._read :]))
        self._read = len(tokens)
        return self._reader.done
