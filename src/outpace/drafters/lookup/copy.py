"""Copying the input: the draft is the part of the prompt that follows the place which the output has reached.

Input-guided aggressive decoding: Sun et al. 2021, "Instantaneous Grammatical Error Correction with Shallow
Aggressive Decoding", arXiv:2106.04970; Ge et al. 2022, "Lossless Acceleration for Seq2seq Generation with
Aggressive Decoding", arXiv:2205.10350. For outputs that repeat their input with changes: corrections, edits.

    observe   while the output agrees with the prompt, a pointer into the prompt moves with it; where they
              disagree, the pointer is set again by a search of the prompt near the place where they parted
    propose   the `length` tokens at the pointer

An n-gram look-up does not know the place. Here the next occurrence of a common word is taken, and one token
is enough to find it.

Deviations. The whole prompt is the input; an alignment begins where the last min_match tokens of the text
stand in it. The original re-aligns at a suffix of the output that occurs once in the input; here, in this
order: behind the next occurrence of the last token within REACH tokens of the place; behind the occurrence of
the last min_match tokens that is nearest to it; behind the token that was not repeated, as if replaced.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from outpace.core.call import Prompt
from outpace.core.options import checked, sizes
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree

REACH = 8
"""Tokens after the end of an alignment within which the next may begin, in the output and in the prompt."""


class CopyState:
    """Where a row stands in its prompt.

    places   string of min_match tokens -> the positions behind its occurrences in the prompt, ascending.
    tail     the last min_match tokens of the text.
    pointer  position of the token that is expected next, -1 while there is no alignment.
    home     the pointer as the last token that agreed had left it; `since`, how many tokens ago that was.
    """

    __slots__ = ("home", "min_match", "places", "pointer", "prompt", "since", "tail")

    def __init__(self, prompt: Sequence[int], min_match: int) -> None:
        self.prompt = list(prompt)
        self.min_match = min_match
        self.tail = tuple(prompt[-min_match:])
        self.pointer = -1
        self.home = 0
        self.since = REACH
        self.places: dict[tuple[int, ...], list[int]] = {}
        for end in range(min_match, len(prompt)):
            self.places.setdefault(tuple(prompt[end - min_match : end]), []).append(end)

    def follow(self, token: int) -> None:
        """Move on by one committed token."""
        self.tail = (*self.tail, token)[-self.min_match :]
        if 0 <= self.pointer < len(self.prompt) and self.prompt[self.pointer] == token:
            self.pointer += 1
            self.home, self.since = self.pointer, 0
            return
        self.since += 1
        near = self.prompt[self.home : self.home + REACH] if self.since <= REACH else []
        if token in near:
            self.pointer = self.home + near.index(token) + 1
        elif places := self.places.get(self.tail):
            self.pointer = nearest(places, self.home)
        else:
            self.pointer = self.home + 1 if self.since == 1 else -1


class Copy:
    """Chains of `length` tokens of the prompt, from where the output stands in it."""

    traits = Traits()

    @checked
    def __init__(self, *, length: int = 8, min_match: int = 2) -> None:
        sizes("copy", length=length, min_match=min_match)
        self.length = length
        self.min_match = min_match

    def start(self, prompt: Prompt) -> CopyState:
        """Index the prompt, or the source that a prompt of an encoder-decoder model carries."""
        if prompt.source is None or prompt.source.ids is None:
            return CopyState(prompt, self.min_match)
        state = CopyState(prompt.source.ids, self.min_match)
        state.tail = tuple(prompt[-self.min_match :])
        state.pointer = state.since = 0  # such an output begins where its source does
        return state

    def propose(self, states: Sequence[CopyState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A chain for each row, root-only without an alignment."""
        return [
            TokenTree.chain(ask.root, self._draft(state, min(ask.budget, ask.depth)))
            for state, ask in zip(states, asks, strict=True)
        ]

    def observe(self, states: Sequence[CopyState], steps: Sequence[Step]) -> list[CopyState]:
        """Follow what was committed, in place."""
        for state, step in zip(states, steps, strict=True):
            for token in step.tokens:
                state.follow(token)
        return list(states)

    def stop(self, state: CopyState) -> None:
        """There is nothing to give back."""

    def _draft(self, state: CopyState, room: int) -> list[int]:
        if state.pointer < 0:
            return []
        return state.prompt[state.pointer : state.pointer + min(self.length, room)]


def nearest(places: Sequence[int], home: int) -> int:
    """The one of these ascending places that is nearest to `home`, the later of two."""
    after = bisect_left(places, home)
    return min(reversed(places[max(0, after - 1) : after + 1]), key=lambda place: abs(place - home))
