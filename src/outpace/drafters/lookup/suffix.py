"""Suffix decoding: drafts from tries that count what followed a suffix, in this text and in past outputs.

Oliaro et al. 2024, "SuffixDecoding: Extreme Speculative Decoding for Emerging AI Applications",
arXiv:2411.04975. A trie with counts holds a text's tokens and everything that it has repeated
(`suffix_trie.py`). One trie is of the row's own text, one of the outputs of past requests.

    propose   for every m at which the last m tokens are in a trie: grow a tree below them, likeliest node
              first (D = product of count / counts of the siblings), up to factor * m nodes, none with
              D < min_p; take the tree of the largest sum of D, the number of tokens it expects to be accepted
    observe   extend the row's trie by the new tokens
    stop      add the row's output to the past ones

Deviations. Past outputs are bounded by tokens; those that have not served an accepted draft for longest go
first. Below a match that occurs once, or is as long as the trie is deep, the latest occurrence is copied, so
a draft may reach deeper than the trie.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from math import inf

from outpace.core.call import Prompt
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes, within
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.suffix_trie import ENTRY_BYTES, Place, SuffixTrie

ROUNDING = 1e-9  # of sums: of two matches that expect as much, the longer one counts


class Suffix:
    """Trees of at most `size` nodes from the counts of what followed the last m tokens.

    `factor` nodes per matched token; past outputs are kept up to `store` tokens in all, 0 keeps none. The
    counts of a request, and those of past outputs, take `memory_mb` at most; then they forget what is old.
    """

    traits = Traits(branches=True)

    @checked
    def __init__(
        self,
        *,
        factor: float = 2.0,
        min_p: float = 0.1,
        size: int = 24,
        max_depth: int = 24,
        store: int = 65536,
        memory_mb: int = 64,
    ) -> None:
        if not 0 < factor < inf:
            raise OutpaceError(f"suffix has factor={factor}, accepted are finite numbers > 0")
        within("suffix", 0, 1, min_p=min_p)
        sizes("suffix", size=size, max_depth=max_depth)
        within("suffix", 0, store=store)
        within("suffix", 1, 2**20, memory_mb=memory_mb)
        self.factor = factor
        self.min_p = min_p
        self.size = size
        self._past = PastOutputs(store, max_depth, most=memory_mb * 10**6 // ENTRY_BYTES)

    def start(self, prompt: Prompt) -> SuffixState:
        """Index the prompt."""
        return SuffixState(prompt, self._past)

    def propose(self, states: Sequence[SuffixState], asks: Sequence[Ask]) -> list[TokenTree]:
        """The best tree of each row. logq: the log of a token's share in the counts of its siblings."""
        return [self._draft(state, ask) for state, ask in zip(states, asks, strict=True)]

    def observe(self, states: Sequence[SuffixState], steps: Sequence[Step]) -> list[SuffixState]:
        """Index what was committed, in place."""
        for state, step in zip(states, steps, strict=True):
            if step.verdict.path and state.source is not None:
                state.used.pop(state.source, None)
                state.used[state.source] = None
            state.extend(step.tokens)
        return list(states)

    def stop(self, state: SuffixState) -> None:
        """Keep the row's output for later requests."""
        self._past.touch(state.used)
        self._past.add(state.text[state.num_prompt :])

    def _draft(self, state: SuffixState, ask: Ask) -> TokenTree:
        room = min(self.size, ask.budget)
        best, score, source = None, 0.0, None
        for trie, places in ((state.own, state.own.ends), (self._past.trie, state.places_in(self._past))):
            for m in range(len(places) - 1, 0, -1):
                limit = min(room, max(1, int(self.factor * m)))
                # No tree of a shorter match can expect more tokens than it may have nodes.
                if limit <= score:
                    break
                grown = trie.grow(ask.root, places[m], size=limit, depth=ask.depth, min_p=self.min_p)
                expected = sum(grown.odds[1:])
                if expected > score + ROUNDING:
                    best, score, source = grown, expected, None if trie is state.own else places[m]
        state.source = None if source is None else self._past.number_at(source)
        return TokenTree.root(ask.root) if best is None else best.tree()


class SuffixState:
    """A row's text in a trie of its own, and where its end stands in the past outputs."""

    __slots__ = ("_places", "_seen", "_version", "num_prompt", "own", "source", "text", "used")

    def __init__(self, prompt: Sequence[int], past: PastOutputs) -> None:
        self.text: list[int] = []
        self.own = SuffixTrie(past.trie.depth, most=past.most)
        self.extend(prompt)
        self.num_prompt = len(prompt)
        self.source: int | None = None  # the past output behind the draft that is being judged
        self.used: dict[int, None] = {}  # those that served an accepted draft, latest last
        self._places: list[Place] = []
        self._seen = 0
        self._version = -1

    def extend(self, tokens: Sequence[int]) -> None:
        """Index more of the text; of one that repeats too much, the last part alone."""
        self.text += tokens
        self.own.extend(tokens)
        while self.own.full and len(self.own.text) > 1:
            kept = self.own.text[-(len(self.own.text) // 2) :]
            self.own = SuffixTrie(self.own.depth, most=self.own.most)
            self.own.extend(kept)

    def places_in(self, past: PastOutputs) -> list[Place]:
        """See `SuffixTrie.advance`. Other rows may have added outputs since the last time."""
        trie, text = past.trie, self.text
        if self._version != past.version:
            self._version, self._places = past.version, [trie.root]
            self._seen = max(0, len(text) - trie.depth)
        for token in text[self._seen :]:
            self._places = trie.advance(self._places, token)
        self._seen = len(text)
        return self._places


class PastOutputs:
    """Outputs of past requests, at most `size` tokens in all, in one trie of at most `most` entries."""

    def __init__(self, size: int, depth: int, *, most: int) -> None:
        self.size = size
        self.most = most
        self.trie = SuffixTrie(depth, most=most)
        self.version = 0
        self._outputs: dict[int, list[int]] = {}  # by number, least recently used first
        self._next = 0
        self._starts: list[int] = []  # in the trie's text, ascending, with the number of the output there
        self._numbers: list[int] = []

    def number_at(self, place: Place) -> int:
        """The number of the output in which a substring occurred (last)."""
        at = place if isinstance(place, int) else place.last
        return self._numbers[bisect_right(self._starts, at) - 1]

    def touch(self, numbers: Iterable[int]) -> None:
        """These outputs have been of use."""
        for number in numbers:
            if number in self._outputs:
                self._outputs[number] = self._outputs.pop(number)

    def add(self, output: Sequence[int]) -> None:
        """Keep an output; where there is no room, forget others until a quarter is free."""
        kept = list(output[-self.size :]) if self.size else []
        if not kept:
            return
        self.version += 1
        self._outputs[self._next] = kept
        self._next += 1
        total = sum(map(len, self._outputs.values()))
        if total <= self.size:
            self._index(self._next - 1)
            if not self.trie.full:
                return
        # A trie cannot forget; a quarter at a time, making it anew is rare.
        room = min(total, self.size) * 3 // 4
        while True:
            for number in list(self._outputs)[:-1]:
                if total <= room:
                    break
                total -= len(self._outputs.pop(number))
            self.trie = SuffixTrie(self.trie.depth, most=self.most)
            self._starts, self._numbers = [], []
            for number in self._outputs:
                self._index(number)
            if not self.trie.full or len(self._outputs) == 1:
                return
            room //= 2

    def _index(self, number: int) -> None:
        self._starts.append(len(self.trie.text))
        self._numbers.append(number)
        self.trie.extend(self._outputs[number])
        self.trie.close()
