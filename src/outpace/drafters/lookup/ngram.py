"""Prompt lookup: what followed the last n tokens before will follow them again.

Saxena 2023, "Prompt Lookup Decoding" (github.com/apoorvumang/prompt-lookup-decoding). For n from max_n down
to min_n: if the last n tokens of prompt and output have occurred before, propose what came after them there.

    observe   each new token continues one n-gram per n, and the hash index points there: constant time
    propose   one look-up per n, longest first; the first hit is compared backwards for the length m of the
              whole match, and the next m tokens are copied: at least `length`, at most `max_length`

Deviations. The draft grows with the match, after SuffixDecoding (Oliaro et al. 2024, arXiv:2411.04975): the
token after a match of one is mostly wrong, after a long match nearly always right, and no single length suits
both (docs/methods/ngram.md has the measurements). The latest occurrence wins, where the original takes the
first, and the index is a plain overwrite. A copy that reaches the end of the text continues with its own
tokens, so a text that repeats itself is drafted at full length.
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree


class NGramState:
    """All tokens of a row, and for every n-gram with a continuation the position of the latest one."""

    __slots__ = ("index", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.index: dict[tuple[int, ...], int] = {}


class NGram:
    """Chains copied from behind the latest match of m tokens: `length` of them, or m if that is more.

    Beyond `length`, a match lengthens the draft up to `max_length`; equal, they draft one length always.
    """

    traits = Traits(goes_on=True)

    @checked
    def __init__(self, *, min_n: int = 1, max_n: int = 3, length: int = 3, max_length: int = 12) -> None:
        if not 1 <= min_n <= max_n:
            raise OutpaceError(f"ngram has min_n={min_n} and max_n={max_n}, accepted are 1 <= min_n <= max_n")
        sizes("ngram", max_n=max_n, length=length, max_length=max_length)
        self.min_n = min_n
        self.max_n = max_n
        self.length = length
        self.max_length = max_length
        self._sizes = range(max_n, min_n - 1, -1)
        self._reach = max(max_n, max_length)

    def start(self, prompt: Prompt) -> NGramState:
        """Index the prompt: time and memory in proportion to its length."""
        return self._extend(NGramState(), prompt)

    def propose(self, states: Sequence[NGramState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A chain for each row, root-only where nothing matches."""
        return [
            TokenTree.chain(ask.root, self._draft(state, min(ask.budget, ask.depth), list(ask.known)))
            for state, ask in zip(states, asks, strict=True)
        ]

    def observe(self, states: Sequence[NGramState], steps: Sequence[Step]) -> list[NGramState]:
        """Index what was committed, in place."""
        return [self._extend(state, step.tokens) for state, step in zip(states, steps, strict=True)]

    def fork(self, state: NGramState) -> NGramState:
        """A copy, in proportion to the text."""
        twin = NGramState()
        twin.tokens, twin.index = list(state.tokens), dict(state.index)
        return twin

    def stop(self, state: NGramState) -> None:
        """There is nothing to give back."""

    def successors(self, state: NGramState, text: Sequence[int]) -> tuple[int, Sequence[tuple[int, float]]]:
        """(m, what followed the latest match of the last m tokens of `text`); m is 0 without one."""
        tokens = state.tokens
        for n in self._sizes:
            found = state.index.get(tuple(text[-n:]))
            if found is not None:
                matched, most = n, min(found, len(text), self.max_length)
                while (
                    n == self.max_n and matched < most and tokens[found - 1 - matched] == text[-1 - matched]
                ):
                    matched += 1
                return matched, ((tokens[found], 1.0),)
        return 0, ()

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

    def _draft(self, state: NGramState, room: int, known: list[int]) -> list[int]:
        """Known tokens, and what followed them in the text, or followed the text where there are none."""
        tokens, index, room = state.tokens, state.index, room - len(known)
        tail = [*tokens[-self._reach :], *known] if known else tokens
        for n in self._sizes:
            found = index.get(tuple(tail[-n:])) if n <= len(tail) else None
            if found is not None:
                matched = n
                # A longer match at this place is possible behind the longest n-gram only.
                while n == self.max_n and matched < min(found, self.max_length, len(tail)):
                    if tokens[found - 1 - matched] != tail[-1 - matched]:
                        break
                    matched += 1
                length = min(room, max(self.length, min(matched, self.max_length)))
                draft = tokens[found : found + length]
                if len(draft) < length:
                    draft = (draft * (length // len(draft) + 1))[:length]
                return known + draft
        return known
