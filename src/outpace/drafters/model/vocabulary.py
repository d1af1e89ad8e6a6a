"""Readers and bridges between a target and a draft model.

A Reader turns committed tokens of the target into tokens of the draft model; a Bridge turns its drafts into
proposals. Those here are for one shared vocabulary and change nothing; `foreign.py` has the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.steps import Ask
from outpace.core.tree import Draw, TokenTree
from outpace.trees.grow import EVERY_DRAW


class Words(NamedTuple):
    """A model's vocabulary: its tokenizer, or None, and the number of its ids (some may be no tokens)."""

    tokenizer: Any
    size: int

    def text(self, token: int) -> bytes:
        """The bytes of an id; none for special tokens and for what is no token."""
        text: bytes = self.tokenizer.text_bytes[token] if token < self.size else b""
        return text

    def name(self, token: int) -> str | None:
        """What a special token is called."""
        name: str | None = self.tokenizer.token(token)
        return name


class Reading:
    """What a row's draft model has still to read: tokens of its own, then bytes that are no tokens yet."""

    __slots__ = ("ids", "tail")

    def __init__(self, ids: Sequence[int] = (), tail: bytes = b"") -> None:
        self.ids: list[int] = list(ids)
        self.tail = tail


class Reader(Protocol):
    """From the target's tokens to the draft model's."""

    def start(self, prompt: Sequence[int]) -> Reading:
        """All of a prompt is to be read."""

    def pending(self, reading: Reading) -> list[int]:
        """The draft model's tokens for what is unread; [] where they cannot be told yet."""

    def commit(self, reading: Reading, scored: TokenTree | None, tokens: Sequence[int]) -> list[int] | None:
        """Tokens of the target became text; brings `reading` up to date.

        `scored` is the draft model's last tree; its root was the last token that was unread. Returns the
        nodes below it that the text went through; they and the root are read now. None: not even the root.
        """


class Bridge(Protocol):
    """From the draft model's tokens to the target's; policies grow trees of either, as the bridge has it.

    draws  the draws that proposals may have other than "point".
    plain  whether the trees grown are made of the draft model's own tokens.
    """

    draws: frozenset[Draw]
    plain: bool

    def ask(self, ask: Ask, root: int) -> Ask:
        """What to grow for an ask; the draft model's last token is `root`."""

    def into_draft(self, tree: TokenTree, root: int) -> TokenTree:
        """A grown tree in the draft model's tokens."""

    def from_draft(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The draft model's logits [F, V] over the tokens of grown trees."""

    def proposal(self, tree: TokenTree, ask: Ask) -> TokenTree:
        """A grown tree in the target's tokens."""


class SameTokens:
    """One vocabulary: the tokens as they are."""

    def start(self, prompt: Sequence[int]) -> Reading:
        """The prompt."""
        return Reading(prompt)

    def pending(self, reading: Reading) -> list[int]:
        """All."""
        return reading.ids

    def commit(self, reading: Reading, scored: TokenTree | None, tokens: Sequence[int]) -> list[int] | None:
        """The path of equal tokens. The last token is not looked for: it is the root of the next tree."""
        if scored is None:
            reading.ids += tokens
            return None
        path: list[int] = []
        node = 0
        while len(path) < len(tokens) - 1 and (node := scored.child(node, tokens[len(path)])) > 0:
            path.append(node)
        reading.ids = list(tokens[len(path) :])
        return path


class SameVocabulary:
    """One vocabulary, up to ids at the end that one of the models lacks."""

    draws = EVERY_DRAW
    plain = True

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size  # the target's

    def ask(self, ask: Ask, root: int) -> Ask:
        """The ask."""
        return ask

    def into_draft(self, tree: TokenTree, root: int) -> TokenTree:
        """The tree."""
        return tree

    def from_draft(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """As many as the target has: what it lacks is cut off, what the draft model lacks is impossible."""
        missing = self._vocab_size - logits.shape[1]
        if missing <= 0:
            return logits[:, : self._vocab_size]
        return np.pad(logits, ((0, 0), (0, missing)), constant_values=-np.inf)

    def proposal(self, tree: TokenTree, ask: Ask) -> TokenTree:
        """The tree."""
        return tree


def same_vocabulary(one: Words, other: Words) -> bool:
    """Whether ids stand for the same bytes in both; ids that only one model has must stand for none.

    Without tokenizers, all ids are tokens.
    """
    if one.tokenizer is None or other.tokenizer is None:
        return one.tokenizer is other.tokenizer and one.size == other.size
    return all(one.text(token) == other.text(token) for token in range(max(one.size, other.size)))
