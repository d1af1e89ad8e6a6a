"""Longer drafts from a pool of phrases: a draft is extended by phrases that began with its last token.

Zhao et al. 2024, "Ouroboros: Generating Longer Drafts Phrase by Phrase for Faster Speculative Decoding",
arXiv:2402.13720. The pool maps a token to phrases that began with it, the latest first.

    propose   the inner drafter's tree; below its deepest node up to num_phrases alternatives, as a trie, of
              phrase_length tokens that followed that node's token; below the root where nothing is drafted
    observe   feed the pool with the text, and with every stretch of a rejected draft that the target's own
              choices confirm, the choice after it included
    stop      the row's phrases join the pool of all later requests

Deviations. The inner drafter may be any; in the paper it is a small model that itself drafts by phrases. The
pool forgets the phrases that have not been seen for longest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.options import checked, within
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters import DRAFTERS

Phrase = tuple[int, ...]


@dataclass(slots=True)
class PhrasesState:
    """The inner drafter's state, the row's own phrases, and the end of its text."""

    inner: Any
    pool: PhrasePool
    tail: list[int]


class Phrases:
    """The trees of another drafter, lengthened by up to `num_phrases` of `phrase_length` tokens each.

    Up to `pool` phrases are kept of each row, and up to `pool` of all requests before.
    """

    @checked
    def __init__(
        self, inner: Drafter, *, num_phrases: int = 2, phrase_length: int = 2, pool: int = 16384
    ) -> None:
        within("phrases", 1, num_phrases=num_phrases, phrase_length=phrase_length, pool=pool)
        self.num_phrases = num_phrases
        self.phrase_length = phrase_length
        self.inner = inner
        # Lengthened by phrases, a tree has no distribution left.
        self.traits = replace(self.inner.traits, branches=True, draws=frozenset())
        # Changes in `stop` alone: rows that run side by side do not see one another.
        self._pool = PhrasePool(pool)

    def start(self, prompt: Prompt) -> PhrasesState:
        """Start the inner drafter and take the phrases of the prompt."""
        state = PhrasesState(self.inner.start(prompt), PhrasePool(self._pool.size), [])
        self._read(state, prompt)
        return state

    def propose(self, states: Sequence[PhrasesState], asks: Sequence[Ask]) -> list[TokenTree]:
        """The inner trees with phrases; without any law, as what hangs on a draft depends on the draft."""
        trees = self.inner.propose([state.inner for state in states], asks)
        return [self._lengthen(*row) for row in zip(trees, states, asks, strict=True)]

    def observe(self, states: Sequence[PhrasesState], steps: Sequence[Step]) -> list[PhrasesState]:
        """Pass the steps on and feed the pools."""
        inner = self.inner.observe([state.inner for state in states], steps)
        for state, step, after in zip(states, steps, inner, strict=True):
            state.inner = after
            for phrase in confirmed(step, self.phrase_length + 1):
                state.pool.add(phrase)
            self._read(state, step.tokens)
        return list(states)

    def stop(self, state: PhrasesState) -> None:
        """End the inner drafter's row and keep the phrases for later requests."""
        self.inner.stop(state.inner)
        for phrase in state.pool:
            self._pool.add(phrase)

    def _read(self, state: PhrasesState, tokens: Sequence[int]) -> None:
        """Every token of the text begins a phrase once there are enough behind it."""
        text, n = [*state.tail, *tokens], self.phrase_length + 1
        for end in range(n, len(text) + 1):
            state.pool.add(tuple(text[end - n : end]))
        state.tail = text[max(0, len(text) - n + 1) :]

    def _lengthen(self, tree: TokenTree, state: PhrasesState, ask: Ask) -> TokenTree:
        shape, tokens, parents = tree.shape, list(tree.token_list), list(tree.shape.parent_list)
        end = shape.depths.index(shape.height)
        room = min(self.phrase_length, ask.depth - shape.height)
        child: dict[tuple[int, int], int] = {}
        for phrase in self._after(state, tokens[end]) if room > 0 else ():
            node = end
            for token in phrase[1 : 1 + room]:
                known = child.get((node, token))
                if known is None:
                    if len(tokens) > ask.budget:
                        break
                    known = child[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                node = known
        if len(tokens) > tree.num_nodes:
            return TokenTree(tokens, parents)
        # A "point" tree even where no phrase is known: whether one is depends on what was drawn.
        return tree if tree.draw == "point" else TokenTree(tokens, shape)

    def _after(self, state: PhrasesState, token: int) -> list[Phrase]:
        """The latest phrases that begin with a token, the row's own first."""
        own = state.pool.latest(token, self.num_phrases)
        others = self._pool.latest(token, self.num_phrases)
        return [*own, *(phrase for phrase in others if phrase not in own)][: self.num_phrases]


@checked
def phrases(
    context: Mapping[str, Any],
    *,
    draft: str = "ngram",
    num_phrases: int = 2,
    phrase_length: int = 2,
    pool: int = 16384,
) -> Phrases:
    """Over the drafter of a name."""
    inner = DRAFTERS.create(draft, **context)
    return Phrases(inner, num_phrases=num_phrases, phrase_length=phrase_length, pool=pool)


class PhrasePool:
    """At most `size` phrases of two tokens or more, least recently seen first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._seen = OrderedDict[Phrase, None]()  # unlike a dict, quick to find its oldest
        self._by_token: dict[int, dict[Phrase, None]] = {}

    def __iter__(self) -> Iterator[Phrase]:
        return iter(self._seen)

    def add(self, phrase: Phrase) -> None:
        """The phrase has been seen now."""
        same = self._by_token.setdefault(phrase[0], {})
        self._seen.pop(phrase, None)
        same.pop(phrase, None)
        self._seen[phrase] = same[phrase] = None
        if len(self._seen) > self.size:
            oldest, _ = self._seen.popitem(last=False)
            del self._by_token[oldest[0]][oldest]

    def latest(self, token: int, count: int) -> list[Phrase]:
        """Up to `count` phrases that begin with a token, latest first."""
        found = []
        for phrase in reversed(self._by_token.get(token, ())):
            found.append(phrase)
            if len(found) == count:
                break
        return found


def confirmed(step: Step, length: int) -> list[Phrase]:
    """Stretches of the rejected nodes that the target confirms, each with its next choice: `length` at most.

    The text before them did not come true, but the target has said what it would have written behind it.
    """
    tree, tokens, choices = step.tree, step.tree.token_list, step.scores.choices
    parents, kept = tree.shape.parent_list, {0, *step.verdict.path}
    found = []
    for start in range(1, tree.num_nodes):
        parent = parents[start]
        if start in kept or (parent not in kept and choices[parent] == tokens[start]):
            continue
        phrase, node = [tokens[start]], start
        while len(phrase) < length and node >= 0:
            phrase.append(choices[node])
            node = tree.child(node, choices[node])
        # Two tokens are a drafted one and a choice: nothing of the draft is confirmed.
        if len(phrase) > 2:
            found.append(tuple(phrase))
    return found
