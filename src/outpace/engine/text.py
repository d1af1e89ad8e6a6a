"""Token ids to text while they come: never half a character, never a part of a possible stop string."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import Protocol, runtime_checkable

from outpace.core.errors import OutpaceError
from outpace.files.token_text import BytesText, TextDecoder


class BytesOfTokens(Protocol):
    """What a TextStream needs of a tokenizer."""

    @property
    def text_bytes(self) -> Mapping[int, bytes]: ...

    @property
    def strips_space(self) -> bool: ...


@runtime_checkable
class Decoding(Protocol):
    """A tokenizer whose text is more than the bytes of its tokens."""

    def text_decoder(self, *, continues: bool, shown: Collection[int] = ...) -> TextDecoder: ...


class TextStream:
    """The text of one growing sequence, in pieces whose sum is `tokenizer.decode` of all its tokens.

    With `stop` strings the text ends before the one that is complete first (of several that end at the same
    character, the longest): no token is taken once the decoded text holds one. A character waits for its last
    byte, and bytes of a vocabulary that spells by bytes wait for the end of their run.

    - `stopped`: a stop string is complete; all further tokens are ignored.
    - `tokens_used`: how many of the pushed tokens count, the one that completed the stop string included.
    """

    def __init__(
        self,
        tokenizer: BytesOfTokens | Decoding,
        *,
        stop: str | Sequence[str] = (),
        keep_first_space: bool = False,
        shown: Collection[int] = frozenset(),
    ) -> None:
        """`keep_first_space`: the text continues another, so keep the first space, which `decode` drops.

        `shown`: ids of special tokens that are written out in the text, which `decode` leaves out.
        """
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise OutpaceError("stop strings must be texts of at least one character")
        self.stopped = False
        self.tokens_used = 0
        self._decoder: TextDecoder
        if isinstance(tokenizer, Decoding):
            self._decoder = tokenizer.text_decoder(continues=keep_first_space, shown=shown)
        else:
            assert not shown, "a tokenizer of bytes alone has no special tokens"
            drop_space = tokenizer.strips_space and not keep_first_space
            self._decoder = BytesText(tokenizer.text_bytes, drop_space=drop_space)
        self._matchers = [_Matcher(text) for text in sorted(stop, key=len, reverse=True)]
        self._held = ""
        self._tried, self._trial = "", self._matchers  # text that may still change, and what it matches

    def push(self, token_ids: Iterable[int]) -> str:
        """Takes the next tokens and returns the text that has become certain (often none)."""
        if not self._matchers:
            ids = list(token_ids)
            self.tokens_used += len(ids)
            return "".join(map(self._decoder.push, ids))
        pieces = []
        for token_id in token_ids:
            if self.stopped:
                break
            self.tokens_used += 1
            pieces.append(self._until_stop(self._decoder.push(token_id)))
            if not self.stopped and not self._decoder.waits:
                pieces.append(self._if_it_stops(self._decoder.finish()))
        return "".join(pieces)

    def finish(self) -> str:
        """Returns the rest: what was held back, and U+FFFD for a character that never became complete."""
        if self.stopped:
            return ""
        rest = self._until_stop(self._decoder.finish()) + self._held
        self._held = ""
        return rest

    def _until_stop(self, text: str) -> str:
        """Appends `text` to the held text and releases what no stop string can claim any more."""
        held = self._held + text
        if text:
            self._tried = ""
        if (found := _first_stop(text, self._matchers)) is not None:
            end, stop = found
            self.stopped = True
            return held[: len(self._held) + end - len(stop)]
        certain = len(held) - max((matcher.matched for matcher in self._matchers), default=0)
        self._held = held[certain:]
        return held[:certain]

    def _if_it_stops(self, rest: str) -> str:
        """The text before a stop string, were `rest` the rest; "" where there is no stop string in it."""
        if not rest:
            return ""
        if not (self._tried and rest.startswith(self._tried)):
            self._tried, self._trial = "", list(map(copy, self._matchers))
        before = len(self._tried)
        found = _first_stop(rest[before:], self._trial)
        self._tried = rest
        if found is None:
            return ""
        end, stop = found
        self.stopped = True
        return (self._held + rest)[: len(self._held) + before + end - len(stop)]


def _first_stop(text: str, matchers: Sequence[_Matcher]) -> tuple[int, str] | None:
    """The stop string that is complete first, and how much of `text` it takes. The matchers move on."""
    for end, character in enumerate(text, start=1):
        for matcher in matchers:  # longest first
            if matcher.advance(character):
                return end, matcher.text
    return None


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
