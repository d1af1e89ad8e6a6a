"""Retrieval: what followed the last tokens in a corpus.

He et al. 2023, "REST: Retrieval-Based Speculative Decoding", arXiv:2311.08252. A datastore
(`files/datastore.py`) holds the corpus and its suffix array, in which binary search finds all occurrences
of a string.

    propose   the longest suffix of the text, of max_n tokens at most, that the corpus has; up to max_hits of
              its occurrences; what follows them as a counted trie; its `size` most frequent nodes
    observe   remember the last max_n tokens

Deviations. If there are more than max_hits occurrences, an even selection is read: they are sorted by what
follows, so shares stay as they are. Nodes with a share below `min_p` are not drafted. The longest suffix
grows by at most one with each new token, so the search begins there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes, within
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.files.datastore import END, KEY_LENGTH, Datastore, vocabulary_id
from outpace.trees.likeliest import Offer, best_first, branches

Hits = Sequence[Sequence[int]]


class RetrievalState:
    """The last tokens of a row, and how many of them the corpus may hold as one string."""

    __slots__ = ("matched", "tail")

    def __init__(self, tail: list[int], matched: int) -> None:
        self.tail = tail
        self.matched = matched


class Retrieval:
    """Trees of the `size` most frequent continuations in the datastore at `path`, `length` levels at most."""

    traits = Traits(branches=True)

    @checked
    def __init__(
        self,
        *,
        path: str = "",
        min_n: int = 2,
        max_n: int = KEY_LENGTH,
        max_hits: int = 64,
        length: int = 8,
        size: int = 12,
        min_p: float = 0.1,
        target: Target,
        tokenizer: Any,
    ) -> None:
        if not path:
            raise OutpaceError("retrieval needs path, a file that outpace datastore build has written")
        if not 1 <= min_n <= max_n <= KEY_LENGTH:
            given = f"min_n={min_n} and max_n={max_n}"
            raise OutpaceError(f"retrieval has {given}, accepted are 1 <= min_n <= max_n <= {KEY_LENGTH}")
        sizes("retrieval", max_hits=max_hits, length=length, size=size)
        within("retrieval", 0, 1, min_p=min_p)
        self._store = Datastore(path)
        known = self._store.tokens.max() < target.vocab_size
        if not known or self._store.vocabulary != vocabulary_id(tokenizer.text_bytes, target.vocab_size):
            raise OutpaceError(f"{path} was built for another vocabulary; build one with this model")
        self.min_n = min_n
        self.max_n = max_n
        self.max_hits = max_hits
        self.length = length
        self.size = size
        self.min_p = min_p

    def start(self, prompt: Prompt) -> RetrievalState:
        """Remember the end of the prompt."""
        return RetrievalState(list(prompt[-self.max_n :]), self.max_n)

    def propose(self, states: Sequence[RetrievalState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row. logq: the log of a token's share in the occurrences of its parent."""
        return [self._draft(state, ask) for state, ask in zip(states, asks, strict=True)]

    def observe(self, states: Sequence[RetrievalState], steps: Sequence[Step]) -> list[RetrievalState]:
        """Remember what was committed, in place."""
        for state, step in zip(states, steps, strict=True):
            new = step.tokens
            state.tail = [*state.tail, *new][-self.max_n :]
            state.matched = min(self.max_n, state.matched + len(new))
        return list(states)

    def stop(self, state: RetrievalState) -> None:
        """There is nothing to give back."""

    def _draft(self, state: RetrievalState, ask: Ask) -> TokenTree:
        depth, size = min(self.length, ask.depth), min(self.size, ask.budget)
        hits = self._hits(state, depth)
        if not hits or depth < 1:
            return TokenTree.root(ask.root)
        return frequent(ask.root, hits, size=size, min_p=self.min_p)

    def _hits(self, state: RetrievalState, depth: int) -> list[list[int]]:
        """The continuations of the longest suffix that the corpus has; sets `state.matched`."""
        store, tail = self._store, state.tail
        for n in range(min(state.matched, len(tail)), self.min_n - 1, -1):
            low, high = store.find(tail[-n:])
            if low < high:
                state.matched = n
                if high - low > self.max_hits:
                    places = np.linspace(low, high - 1, self.max_hits).astype(np.int64)
                    at = store.order[places]
                else:
                    at = store.order[low:high]
                ahead = np.arange(n, n + depth)
                # The corpus ends with END, and what is taken from there beyond it is never read.
                return store.tokens[np.minimum(at[:, None] + ahead, len(store.tokens) - 1)].tolist()
        state.matched = self.min_n - 1
        return []


def frequent(root: int, continuations: Sequence[Sequence[int]], *, size: int, min_p: float) -> TokenTree:
    """The `size` prefixes that most of the continuations of a token share; END ends one.

    Ties go to the upper level, then to what comes first.
    """
    total, number = len(continuations), count()
    hits: Hits = [hit[: hit.index(END)] if END in hit else hit for hit in continuations]

    def children(node: int, level: int, taken: Offer[Hits]) -> list[Offer[Hits]]:
        return [
            (-len(group) / total, (level, next(number)), node, token, group)
            for token, group in branches(taken[-1], level).items()
            if len(group) >= min_p * total
        ]

    return best_first(root, hits, children, size=size).tree()
