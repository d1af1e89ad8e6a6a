"""The logits processors of transformers that ban tokens or add to their logits, as the edits of a request.

They come in transformers' order, and count as it does: a length is that of all tokens before the choice, the
padding in front of a prompt included. A forced token bans all others, whatever was banned before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from outpace.core.sampling import Edit
from outpace.core.tree import TokenTree

NEVER = float("-inf")
_Grams = dict[tuple[int, ...], set[int]]  # what has followed some tokens


@dataclass(frozen=True, slots=True)
class Rules:
    """What a call asks for, of every row.

    biases            (token ids, what is added to the logit of the last where the others stand before it).
    no_repeat         no run of so many tokens twice; 0 is off.
    no_repeat_source  no run of so many tokens that the source has; 0 is off.
    ends              tokens that are not chosen before the least length.
    forced_first      the only choice after one token; None: there is none.
    forced_last       the only choice before the most length; None: there is none.
    banned            tokens that are never chosen.
    banned_first      tokens that are not chosen first.
    """

    biases: tuple[tuple[tuple[int, ...], float], ...] = ()
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
    """Edits by some rules, in a row's place."""

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
        self._reads_text = bool(self._longer or self._source or rules.no_repeat)
        self._known: dict[tuple[bool, bool, int | None], Edit | None] = {}

    def __call__(self, tokens: Sequence[int], tree: TokenTree) -> list[Edit | None]:
        """What to add to the logits after each node of a tree, whose root is the last of `tokens`."""
        text = [*self._place.padding, *tokens]
        lengths = [len(text) + depth for depth in tree.shape.depths]
        if not self._reads_text:
            return [self._edit(length) for length in lengths]
        grams = _grams(text, self._rules.no_repeat)
        edits = []
        for node, length in enumerate(lengths):
            path = [tree.token_list[one] for one in tree.path_to(node)[1:]]
            edits.append(self._edit(length, self._read(text, path, grams)))
        return edits

    def _read(self, text: list[int], path: list[int], grams: _Grams) -> dict[int, float]:
        """What depends on the tokens themselves: additions by token id. `grams` are those of the text."""
        near = [*text[max(0, len(text) - self._reach) :], *path]  # all that new runs and endings are made of
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

    def _edit(self, length: int, added: dict[int, float] | None = None) -> Edit | None:
        """The edit after so many tokens."""
        rules, place = self._rules, self._place
        forced = rules.forced_first if length == 1 else None
        if rules.forced_last is not None and length == place.max_length - 1:
            forced = rules.forced_last
        case = (length < place.min_length, length == place.first, forced)
        if not added and case in self._known:
            return self._known[case]
        early, is_first, _ = case
        sums = dict(self._plain)
        for token, bias in (added or {}).items():
            sums[token] = sums.get(token, 0.0) + bias
        if early:
            sums |= dict.fromkeys(rules.ends, NEVER)
        if forced is not None:
            sums = dict.fromkeys(range(place.vocab_size), NEVER)
            sums.pop(forced, None)
        sums |= dict.fromkeys(rules.banned, NEVER)
        if is_first:
            sums |= dict.fromkeys(rules.banned_first, NEVER)
        listed = [token for token in sums if 0 <= token < place.vocab_size]
        edit = None
        if listed:
            edit = np.array(listed, np.int32), np.array([sums[token] for token in listed], np.float32)
        if not added:
            self._known[case] = edit
        return edit


def _grams(tokens: Sequence[int], width: int) -> _Grams:
    """What follows every run of `width - 1` tokens; nothing for width 0."""
    grams: _Grams = {}
    for end in range(width - 1, len(tokens)) if width else ():
        grams.setdefault(tuple(tokens[end - width + 1 : end]), set()).add(tokens[end])
    return grams
