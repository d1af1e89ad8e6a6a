"""The model's own bigrams mixed with copies of earlier text: the learning-free N-Grammys.

Stewart, Trager, Gonugondla & Soatto 2024, "The N-Grammys: Accelerating Autoregressive Inference with
Learning-Free Batched Speculation", arXiv:2411.03786. A table holds the target's law of the next token given
one token and nothing else; it is made once per model.

    table     the target scores every token of the vocabulary behind a neutral prefix, as wide trees
    context   the longest n-gram match in the row's text gives a copy, with the odds of a match of its length
    propose   the `size` likeliest paths under the mixture of the two; bigrams also continue a copy at its end
              (the paper's extended bigram)

Deviations. The paper scores a batch of chains, a fixed number from each source. One tree holds more of them
in the same number of tokens, and probabilities decide which. The paper's unigrams are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call, Prompt, begin
from outpace.core.contracts import Target
from outpace.core.options import checked, sizes
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.lookup.ngram import NGram, NGramState
from outpace.trees.likeliest import Offer, best_first

WIDTH = 16  # successors of a token in the table
TOKENS_PER_CALL = 128  # their logits have to fit in memory
COPY_ODDS = (0.21, 0.47, 0.59, 0.66, 0.70, 0.75, 0.77, 0.85)
"""How often the token behind a match of 1, 2, ... tokens is right. Measured on SmolLM2-135M-Instruct over 90
Spec-Bench prompts of 128 tokens, the mean of greedy and temperature 0.8."""

Table = Mapping[str, NDArray[Any]]
Successors = list[tuple[int, float]]  # (token, probability), likeliest first
Place = tuple[float, Iterator[tuple[int, float]], bool]
"""Minus a parent's odds, those of its children that are not offered yet, and whether it is on the copy."""


class Bigram:
    """Trees of the `size` likeliest paths, at most `depth` tokens long.

    copy  also draft what followed the longest match in the text; false for bigrams alone.

    Making the table takes as long as reading a prompt of V tokens: up to some minutes, once per model.
    """

    traits = Traits(branches=True)

    @checked
    def __init__(
        self,
        target: Target,
        memo: Callable[[str, Callable[[], Table], Callable[[Table], bool]], Table],
        *,
        size: int = 16,
        depth: int = 8,
        copy: bool = True,
    ) -> None:
        sizes("bigram", size=size, depth=depth)
        self.size = size
        self.depth = depth
        # A match of m tokens drafts m, so the length of this chain says how sure it is.
        self._copies = NGram(length=1, max_length=depth) if copy else None
        table = memo(f"bigram-{WIDTH}", lambda: bigram_table(target), lambda found: _fits(found, target))
        self._ids, self._probs = table["ids"], table["probs"]

    def start(self, prompt: Prompt) -> NGramState:
        """Index the prompt."""
        return self._copies.start(prompt) if self._copies else NGramState()

    def propose(self, states: Sequence[NGramState], asks: Sequence[Ask]) -> list[TokenTree]:
        """The likeliest paths. logq: the mixture's log-probability after the parent."""
        copies: list[list[int]] = [[]] * len(asks)
        if self._copies:
            copies = [chain.token_list[1:] for chain in self._copies.propose(states, asks)]
        return [self._grow(ask, copy) for ask, copy in zip(asks, copies, strict=True)]

    def observe(self, states: Sequence[NGramState], steps: Sequence[Step]) -> list[NGramState]:
        """Index what was committed, in place."""
        return self._copies.observe(states, steps) if self._copies else list(states)

    def stop(self, state: NGramState) -> None:
        """There is nothing to give back."""

    def successors(self, state: NGramState, text: Sequence[int]) -> tuple[int, Sequence[tuple[int, float]]]:
        """(0, the bigrams of the last token of a text), likeliest first."""
        return 0, self._after(text[-1])

    def _grow(self, ask: Ask, copy: Sequence[int]) -> TokenTree:
        chain, number = [ask.root, *copy], count()
        size, depth = min(self.size, ask.budget), min(self.depth, ask.depth)

        def best(parent: int, place: Place) -> list[Offer[Place]]:
            above, pairs, _ = place
            for token, q in pairs:
                return [(above * q, next(number), parent, token, place)]
            return []

        def children(node: int, level: int, taken: Offer[Place]) -> list[Offer[Place]]:
            """The next sibling of a node that is taken, and its first child."""
            negative, _, parent, token, place = taken
            offers = best(parent, place)
            if level < depth:
                copied = place[2] and level <= len(copy) and token == chain[level]
                if copied and level < len(copy):
                    pairs = self._mixture(token, copy[level], len(copy) + level)
                else:
                    pairs = self._after(token)
                offers += best(node, (negative, iter(pairs), copied))
            return offers

        nothing: Place = -1.0, iter(()), True
        return best_first(ask.root, nothing, children, size=size).tree()

    def _after(self, token: int) -> Successors:
        """The bigrams of a token."""
        return list(zip(self._ids[token].tolist(), self._probs[token].tolist(), strict=True))

    def _mixture(self, token: int, copied: int, match: int) -> Successors:
        """The bigrams of a token and, behind a match of this length, what followed it."""
        odds = COPY_ODDS[min(match, len(COPY_ODDS)) - 1]
        mixed = {other: p * (1 - odds) for other, p in self._after(token)}
        mixed[copied] = mixed.get(copied, 0.0) + odds
        return sorted(mixed.items(), key=lambda pair: -pair[1])


def bigram_table(target: Target) -> Table:
    """ids i32[V, W] and probs f32[V, W]: for every token its likeliest successors, best first.

    The neutral prefix is the end-of-text token twice (the lowest id of those that the target has; token 0 if
    it has none): once as a row of one token, once as the root of the trees that carry the vocabulary.
    """
    neutral = min(target.eos_ids, default=0)
    vocab_size, width = target.vocab_size, min(WIDTH, target.vocab_size)
    ids = np.zeros((vocab_size, width), np.int32)
    probs = np.zeros((vocab_size, width), np.float32)
    size = min(TOKENS_PER_CALL, target.context_length - 2)
    row = begin(target, [neutral])
    try:
        for first in range(0, vocab_size, size):
            tokens = range(first, min(first + size, vocab_size))
            nodes = range(1, len(tokens) + 1)
            tree = TokenTree([neutral, *tokens], [-1] + [0] * len(tokens))
            scores = target.score([Call.on(row, tree)])
            scores.choose([Sampling()], [1], top=width)  # finds the top on the way
            ids[first : first + size], best = scores.top(0, nodes, width)
            logits = scores.logits(0, nodes)
            logits -= best[:, :1]
            mass = np.exp(logits, out=logits).sum(axis=1, keepdims=True)
            probs[first : first + size] = np.exp(best - best[:, :1]) / mass
    finally:
        target.free([row])
    return {"ids": ids, "probs": probs}


def _fits(table: Table, target: Target) -> bool:
    """Whether arrays from a file are such a table."""
    shape = (target.vocab_size, min(WIDTH, target.vocab_size))
    if table.keys() != {"ids", "probs"} or not table["ids"].shape == table["probs"].shape == shape:
        return False
    ids, probs = table["ids"], table["probs"]
    if ids.dtype != np.int32 or probs.dtype != np.float32:
        return False
    # The sums of a softmax in f32 may be a little more than 1.
    return bool(0 <= ids.min() and ids.max() < shape[0] and 0 <= probs.min() and probs.max() < 1.01)
