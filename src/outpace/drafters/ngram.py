"""Prompt lookup: what followed the last n tokens before will follow them again.

Saxena 2023, "Prompt Lookup Decoding" (github.com/apoorvumang/prompt-lookup-decoding). For n from max_n down
to min_n: if the last n tokens of prompt and output have occurred before, propose what came after that
occurrence.

    state          all tokens, and a hash index from every n-gram to the place where it was last continued
    observe        each new token completes one continued n-gram per n: constant time per token
    propose        one look-up per n, longest first; the first hit is copied
Deviations: the most recent occurrence wins, where the original takes the first (the index is then a plain
overwrite, and of two places the nearer one is more often in the same sentence, list or loop). A copy that
runs into the end of the text goes on with what it has copied, so a text that repeats itself is drafted in
full length.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.contracts import Ask, RowScores, Step
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree


class NGramState:
    """All tokens of a row, and for every n-gram with a continuation the position of the latest one."""

    __slots__ = ("index", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.index: dict[tuple[int, ...], int] = {}


class NGram:
    """Chains of up to `length` tokens, copied from behind the latest earlier occurrence of the last n."""

    def __init__(self, *, min_n: int = 1, max_n: int = 3, length: int = 6) -> None:
        if not 1 <= min_n <= max_n:
            raise OutpaceError(f"ngram has min_n={min_n} and max_n={max_n}, accepted are 1 <= min_n <= max_n")
        if length < 1:
            raise OutpaceError(f"ngram has length={length}, accepted are whole numbers >= 1")
        self.min_n = min_n
        self.max_n = max_n
        self.length = length
        self._sizes = range(max_n, min_n - 1, -1)

    def start(self, prompt: Sequence[int], scores: RowScores) -> NGramState:
        """Index the prompt: time and memory in proportion to its length."""
        return self._extend(NGramState(), prompt)

    def propose(self, states: Sequence[NGramState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A chain for each row, root-only where nothing matches."""
        return [
            TokenTree.chain(ask.root, self._draft(state, min(self.length, ask.budget, ask.depth)))
            for state, ask in zip(states, asks, strict=True)
        ]

    def observe(self, states: Sequence[NGramState], steps: Sequence[Step]) -> list[NGramState]:
        """Index what was committed, in place."""
        return [self._extend(state, step.tokens) for state, step in zip(states, steps, strict=True)]

    def stop(self, state: NGramState) -> None:
        """There is nothing to give back."""

    def _extend(self, state: NGramState, new: Sequence[int]) -> NGramState:
        tokens, index = state.tokens, state.index
        for token in new:
            # Indexed only now that a continuation exists: a look-up can never hit the end of the text itself.
            end = len(tokens)
            for n in self._sizes:
                if n <= end:
                    index[tuple(tokens[end - n :])] = end
            tokens.append(token)
        return state

    def _draft(self, state: NGramState, length: int) -> list[int]:
        tokens, index = state.tokens, state.index
        if length < 1:
            return []
        for n in self._sizes:
            # A text shorter than n makes a shorter key, which a smaller n would find as well.
            found = index.get(tuple(tokens[-n:]))
            if found is not None:
                draft = tokens[found : found + length]
                if len(draft) < length:
                    draft = (draft * (length // len(draft) + 1))[:length]
                return draft
        return []
