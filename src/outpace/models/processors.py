"""The logits processors of transformers that ban tokens, add to logits or divide them, as edits of a request.

They come in transformers' order, and count as it does: a length is that of all tokens before the choice, the
padding in front of a prompt included. A forced token bans all others, whatever was banned before it.

Two more are OpenAI's, of the tokens that have been written: `presence` and `frequency` are taken from their
logits, with the biases, before the repetition penalty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outpace.core.edits import NO_TOKENS, Edit

NEVER = float("-inf")
_Grams = dict[tuple[int, ...], set[int]]  # what has followed some tokens


@dataclass(frozen=True, slots=True)
class Rules:
    """What a call asks for, of every row.

    biases            (token ids, what is added to the logit of the last where the others stand before it).
    penalty           the repetition penalty, of the tokens before; 1 is off.
    presence          taken from the logit of every token that was written; 0 is off.
    frequency         the same, as often as it was.
    no_repeat         no run of so many tokens twice; 0 is off.
    no_repeat_source  no run of so many tokens that the source has; 0 is off.
    ends              tokens that are not chosen before the least length.
    forced_first      the only choice after one token; None: there is none.
    forced_last       the only choice before the most length; None: there is none.
    banned            tokens that are never chosen.
    banned_first      tokens that are not chosen first.
    """

    biases: tuple[tuple[tuple[int, ...], float], ...] = ()
    penalty: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    no_repeat: int = 0
    no_repeat_source: int = 0
    ends: frozenset[int] = frozenset()
    forced_first: int | None = None
    forced_last: int | None = None
    banned: frozenset[int] = frozenset()
    banned_first: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the rules hold in one row.

    vocab_size  V; ids beyond it cannot be chosen anyway.
    first       the length at which tokens are the first ones.
    min_length  the least length of a text that may end; `max_length`, the most of any.
    padding     what stands in front of the prompt.
    source      the ids that `no_repeat_source` is about.
    """

    vocab_size: int
    first: int
    min_length: int
    max_length: int
    padding: tuple[int, ...] = ()
    source: tuple[int, ...] = ()


class Processors:
    """The edits of a request by some rules, in a row's place: see `Request.edit`."""

    def __init__(self, rules: Rules, place: Place) -> None:
        self._rules = rules
        self._place = place
        self._plain: dict[int, float] = {}
        for (token, *others), bias in rules.biases:
            if not others:
                self._plain[token] = self._plain.get(token, 0.0) + bias
        self._longer = [(ids[:-1], ids[-1], bias) for ids, bias in rules.biases if len(ids) > 1]
        widths = rules.no_repeat, rules.no_repeat_source
        self._reach = max(*widths, *(len(ids) for ids, _ in rules.biases), 0)
        self._source = _grams(place.source, rules.no_repeat_source)
        self._counts = bool(rules.presence or rules.frequency)
        self._reads_text = bool(
            self._longer or self._source or rules.no_repeat or rules.penalty != 1 or self._counts
        )
        self._known: dict[tuple[bool, bool, int | None], Edit | None] = {}
        self._text = _Text((), rules, place)

    def __call__(self, text: Sequence[int], path: Sequence[int]) -> Edit | None:
        """What changes the logits behind a text and a path. The text may have grown since the last call."""
        length = len(self._place.padding) + len(text) + len(path)
        if not self._reads_text:
            return self._edit(length)
        if self._text.tokens is not text:
            self._text = _Text(text, self._rules, self._place)
        known = self._text
        known.read()
        near = [*known.tail(self._reach), *path]  # all that new runs and endings are made of
        added = self._read(known.grams, near)
        if self._counts:
            added = self._less(known.written_with(path), added)
        return self._edit(length, added, known.seen_with(path))

    def _less(self, written: Mapping[int, int], added: dict[int, float]) -> dict[int, float]:
        """The additions, less what tokens lose for having been written."""
        presence, frequency = self._rules.presence, self._rules.frequency
        for token, count in written.items():
            added[token] = added.get(token, 0.0) - presence - frequency * count
        return added

    def _read(self, grams: _Grams, near: list[int]) -> dict[int, float]:
        """What depends on the order of the tokens: additions by token id. `grams` are those of the text."""
        added: dict[int, float] = {}
        for before, token, bias in self._longer:
            if tuple(near[-len(before) :]) == before:
                added[token] = added.get(token, 0.0) + bias
        for known, width in (
            (grams, self._rules.no_repeat),
            (_grams(near, self._rules.no_repeat), self._rules.no_repeat),
            (self._source, self._rules.no_repeat_source),
        ):
            if 0 < width <= len(near) + 1:
                added |= dict.fromkeys(known.get(tuple(near[len(near) + 1 - width :]), ()), NEVER)
        return added

    def _edit(
        self, length: int, added: dict[int, float] | None = None, repeated: NDArray[np.int32] = NO_TOKENS
    ) -> Edit | None:
        """The edit after so many tokens."""
        rules, place = self._rules, self._place
        forced = rules.forced_first if length == 1 else None
        if rules.forced_last is not None and length == place.max_length - 1:
            forced = rules.forced_last
        case = (length < place.min_length, length == place.first, forced)
        varies = added or len(repeated)
        if not varies and case in self._known:
            return self._known[case]
        early, is_first, _ = case
        sums = dict(self._plain)
        for token, bias in (added or {}).items():
            sums[token] = sums.get(token, 0.0) + bias
        if early:
            sums |= dict.fromkeys(rules.ends, NEVER)
        allowed = None
        if forced is not None:
            sums, repeated = {}, NO_TOKENS
            allowed = np.packbits(np.arange(place.vocab_size) == forced, bitorder="little")
        sums |= dict.fromkeys(rules.banned, NEVER)
        if is_first:
            sums |= dict.fromkeys(rules.banned_first, NEVER)
        listed = sorted(token for token in sums if 0 <= token < place.vocab_size)
        edit = None
        if listed or len(repeated) or allowed is not None:
            with np.errstate(over="ignore"):
                values = np.array([sums[token] for token in listed], float).astype(np.float32)
            edit = Edit.of_fields(np.array(listed, np.int32), values, repeated, rules.penalty, allowed)
        if not varies:
            self._known[case] = edit
        return edit


class _Text:
    """What is known of a text that only grows: every token is read once.

    grams  what has followed its runs, padding included.
    """

    def __init__(self, tokens: Sequence[int], rules: Rules, place: Place) -> None:
        self.tokens = tokens
        self.grams: _Grams = {}
        self._width = rules.no_repeat
        self._vocab_size = place.vocab_size if rules.penalty != 1 else 0  # 0: no token counts as seen
        self._seen = NO_TOKENS  # ascending, each once; replaced, never written into: edits keep it
        self._is_seen: set[int] = set()
        self._padding = len(place.padding)
        self._first = place.first
        self._written: Counter[int] = Counter()
        self._read = list(place.padding)
        _add_grams(self.grams, self._read, self._width)

    def read(self) -> None:
        """Take in what the text has grown by."""
        if new := self.tokens[len(self._read) - self._padding :]:
            begin = len(self._read)
            self._read += new
            self._seen = self.seen_with(new)
            self._is_seen.update(new)
            self._written.update(self._read[max(begin, self._first) :])
            _add_grams(self.grams, self._read, self._width, begin)

    def tail(self, count: int) -> list[int]:
        """The last so many tokens, padding included."""
        return self._read[max(0, len(self._read) - count) :]

    def written_with(self, more: Iterable[int]) -> Counter[int]:
        """How often every token stands behind the prompt, these included."""
        return self._written + Counter(more)

    def seen_with(self, more: Sequence[int]) -> NDArray[np.int32]:
        """The tokens of the text and these, each once; without padding, as transformers 5 counts them."""
        fresh = sorted(token for token in {*more} - self._is_seen if 0 <= token < self._vocab_size)
        return np.insert(self._seen, self._seen.searchsorted(fresh), fresh) if fresh else self._seen


def _grams(tokens: Sequence[int], width: int) -> _Grams:
    """What follows every run of `width - 1` tokens; nothing for width 0."""
    grams: _Grams = {}
    _add_grams(grams, tokens, width)
    return grams


def _add_grams(grams: _Grams, tokens: Sequence[int], width: int, begin: int = 0) -> None:
    """Those that end behind the first `begin` tokens."""
    for end in range(max(width - 1, begin), len(tokens)) if width else ():
        grams.setdefault(tuple(tokens[end - width + 1 : end]), set()).add(tokens[end])
