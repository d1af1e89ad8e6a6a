"""Token ids to text while they come: never half a character, never a part of a possible stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from outpace.core.errors import OutpaceError


class BytesOfTokens(Protocol):
    """What a TextStream needs of a tokenizer."""

    @property
    def text_bytes(self) -> Mapping[int, bytes]: ...

    @property
    def strips_space(self) -> bool: ...


class TextStream:
    """The text of one growing sequence, in pieces whose sum is `tokenizer.decode` of all its tokens.

    With `stop` strings the text ends before the one that is complete first (of several that end at the same
    character, the longest). Constant time per token, whatever came before.

    - `stopped`: a stop string is complete; all further tokens are ignored.
    - `tokens_used`: how many of the pushed tokens count, the one that completed the stop string included.
    """

    def __init__(
        self, tokenizer: BytesOfTokens, *, stop: str | Sequence[str] = (), keep_first_space: bool = False
    ) -> None:
        """`keep_first_space`: the text continues another, so keep the first space, which `decode` drops."""
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise OutpaceError("stop strings must be texts of at least one character")
        self.stopped = False
        self.tokens_used = 0
        self._bytes = tokenizer.text_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._drop_space = tokenizer.strips_space and not keep_first_space
        self._matchers = [_Matcher(text) for text in sorted(stop, key=len, reverse=True)]
        self._held = ""

    def push(self, token_ids: Iterable[int]) -> str:
        """Takes the next tokens and returns the text that has become certain (often none)."""
        if not self._matchers:
            ids = list(token_ids)
            self.tokens_used += len(ids)
            return self._text(b"".join(map(self._bytes.__getitem__, ids)))
        pieces = []
        for token_id in token_ids:
            if self.stopped:
                break
            self.tokens_used += 1
            pieces.append(self._until_stop(self._text(self._bytes[token_id])))
        return "".join(pieces)

    def finish(self) -> str:
        """Returns the rest: what was held back, and U+FFFD for a character that never became complete."""
        if self.stopped:
            return ""
        rest = self._until_stop(self._text(b"", final=True)) + self._held
        self._held = ""
        return rest

    def _text(self, data: bytes, *, final: bool = False) -> str:
        text = self._decode(data, final)
        if self._drop_space and text:
            self._drop_space = False
            return text.removeprefix(" ")
        return text

    def _until_stop(self, text: str) -> str:
        """Appends `text` to the held text and releases what no stop string can claim any more."""
        held = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            for matcher in self._matchers:  # longest first
                if matcher.advance(character):
                    self.stopped, self._held = True, ""
                    return held[: end - len(matcher.text)]
        certain = len(held) - max((matcher.matched for matcher in self._matchers), default=0)
        self._held = held[certain:]
        return held[:certain]


class _Matcher:
    """Knuth, Morris and Pratt (1977): how much of one stop string the text so far ends with."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        # fallback[n]: the longest proper prefix of text[:n] that is also its end
        self._fallback = [0, 0]
        for character in text[1:]:
            self._fallback.append(self._longest(self._fallback[-1], character))

    def advance(self, character: str) -> bool:
        """Takes one character; True where it completes the stop string."""
        self.matched = self._longest(self.matched, character)
        return self.matched == len(self.text)

    def _longest(self, matched: int, character: str) -> int:
        while matched and self.text[matched] != character:
            matched = self._fallback[matched]
        return matched + 1 if self.text[matched] == character else 0
