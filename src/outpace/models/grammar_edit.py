"""What a grammar allows after every node of a draft, as edits of a request.

A matcher of llguidance (github.com/guidance-ai/llguidance) holds a place in a text and is moved to another by
consuming tokens and rolling back. From the text's end it goes along a tree: a node differs in few tokens from
the one before, and no text is read twice.

    mask     the tokens that may follow. Where the grammar may end, all tokens that end the text are in it
    end      where nothing else may follow, no bias, penalty or least length counts: the text ends, by the end
             token that the model likes best
    wrong    below a token that the grammar forbids there is no mask: no such node is ever kept
    forced   where another edit forces a token, the grammar says nothing: the first one stands before its
             text, the last one cuts it off
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.edits import NO_FLOATS, NO_TOKENS, AnyEdit, Edit, TextEdit, known_edit
from outpace.core.errors import GrammarError, OutpaceError

MOST = 64  # tokens that are known at once
MOST_FORCED = 8192  # bytes of a text that are forced at once: every mask walks along them, a microsecond each
Path = tuple[int, ...]


class GrammarEdit:
    """The edits of a request by a grammar, together with those of another edit: see `Request.edit`.

    matcher     an LLMatcher at the beginning, for tokens 0 to V - 1 and V, which stands for an end.
    vocab_size  V. ends: tokens that end a text, one or more.
    first       how many tokens of a text are not the grammar's: its prompt, and a first one that is forced.
    other       what else changes the logits; both hold.
    """

    def __init__(
        self, matcher: Any, *, vocab_size: int, ends: Collection[int], first: int, other: TextEdit | None
    ) -> None:
        self._fresh = matcher
        self._vocab_size = vocab_size
        self._first = first
        self._other = other
        is_end = np.zeros(vocab_size, bool)
        is_end[list(ends)] = True
        self._end_mask = np.packbits(is_end, bitorder="little")
        self._text: Sequence[int] = ()
        self._begin(self._text)

    def _begin(self, text: Sequence[int]) -> None:
        self._text = text
        self._matcher = self._fresh.deep_copy()
        self._read = self._first  # tokens of the text: the matcher stands behind them and the path
        self._length = 0  # of the text
        self._path: list[int] = []
        self._edits: dict[Path, AnyEdit | None] = {}
        self._forced: dict[Path, list[int]] = {}

    def __call__(self, text: Sequence[int], path: Sequence[int]) -> AnyEdit | None:
        """What changes the logits behind a text and a path. The text may have grown since the last call."""
        self._follow(text)
        key = tuple(path)
        if key not in self._edits:
            self._edits[key] = self._edit(key)
        return self._edits[key]

    def forced(self, text: Sequence[int], path: Sequence[int]) -> list[int]:
        """The tokens that are certain to come behind both, at most MOST."""
        self._follow(text)
        key = tuple(path)
        if key not in self._forced:
            self._forced[key] = self._certain(key)
        return self._forced[key]

    def _follow(self, text: Sequence[int]) -> None:
        """Take in what the text has grown by. Raises an OutpaceError where that is against the grammar."""
        if text is not self._text:
            self._begin(text)
        if len(text) == self._length:
            return
        self._length = len(text)
        self._edits.clear()
        self._forced.clear()
        new = text[self._read :]
        if new and not self._walk(new):
            self._check()  # it may have met a limit
            raise OutpaceError(
                f"the text has left its grammar with the token {new[len(self._path)]}, accepted are rules "
                "that keep nothing but what may be chosen, such as match"
            )
        if new:
            self._path = []
            self._read = len(text)

    def _walk(self, path: Sequence[int]) -> bool:
        """Move the matcher behind a path, or as far as the grammar goes; whether all of it was gone."""
        same = 0
        for gone, token in zip(self._path, path, strict=False):
            if gone != token:
                break
            same += 1
        if same < len(self._path):
            self._matcher.rollback(len(self._path) - same)
            del self._path[same:]
        rest = list(path[same:])
        taken = self._matcher.try_consume_tokens(rest) if rest else 0
        self._path += rest[:taken]
        return bool(taken == len(rest))

    def _edit(self, path: Path) -> AnyEdit | None:
        before = max(0, self._first - self._length)
        if len(path) < before:
            return None if self._other is None else self._other(self._text, path)
        if not self._walk(path[before:]):
            return None
        allowed, may_end = self._mask()
        is_over = may_end and not allowed.any()
        if may_end:
            allowed |= self._end_mask
        edit = None if self._other is None or is_over else self._other(self._text, path)
        if edit is not None:
            return edit if _forces_another(edit, allowed) else edit.within(allowed)
        return Edit.of_fields(NO_TOKENS, NO_FLOATS, NO_TOKENS, 1.0, allowed)

    def _mask(self) -> tuple[NDArray[np.uint8], bool]:
        """The tokens that may follow, ends left out, and whether the grammar may end."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        byte, bit = divmod(self._vocab_size, 8)
        allowed = bits[: byte + (bit > 0)].copy()
        if bit:
            allowed[-1] &= (1 << bit) - 1
        return allowed, bool(int(bits[byte]) >> bit & 1)

    def _certain(self, path: Path) -> list[int]:
        chain: list[int] = []
        before = max(0, self._first - self._length)
        while len(path) >= before and len(chain) < MOST and self._walk([*path[before:], *chain]):
            more = [token for token in self._matcher.compute_ff_tokens() if token < self._vocab_size]
            self._check()
            if not more:  # an end is what the call of the tokens before it gives: it is not drafted
                break
            chain += more
        return chain[:MOST]

    def _check(self) -> None:
        if (wrong := too_much(self._matcher)) is not None:
            raise GrammarError(f"the grammar cannot be followed: {wrong}")


def _forces_another(edit: AnyEdit, allowed: NDArray[np.uint8]) -> bool:
    """Whether an edit leaves nothing but what a grammar forbids."""
    known = known_edit(edit)
    both = None if known is None or known.allowed is None else known.within(allowed).allowed
    return both is not None and not both.any()


def too_much(matcher: Any) -> str | None:
    """What is wrong with a matcher that has just been asked, or None."""
    if matcher.is_error():
        return str(matcher.get_error()).removesuffix("\n<non-verbose/>")
    if (size := len(matcher.compute_ff_bytes())) > MOST_FORCED:
        return f"it forces {size} bytes at once, accepted are {MOST_FORCED} at most"
    return None
