"""Token recycling: successors that the model found likely after a token draft for its next occurrence.

Luo et al. 2024, "Turning Trash into Treasure: Accelerating Inference of Large Language Models with Token
Recycling", arXiv:2408.08696. A matrix holds, for every token, the k likeliest successors that the target gave
it when it last scored that token, in the text or in a rejected draft.

    propose   lay a fixed tree on the matrix: a node's child of rank r is the r-th successor of its token
    observe   overwrite the matrix row of every token of the scored tree with the target's new top k there
    stop      the row's entries become those of all later requests (the paper's hot start)

Deviations. The tree is not a list from a search but made for any size: the paths of the largest products of
`RANK_ODDS`. The bigrams of the prompt are entered at `start`, for the target scores its last token only.
Where a token stands in a scored tree more than once, the kept path has the last word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, pairwise
from math import log

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Target
from outpace.core.options import checked, sizes, within
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.trees.likeliest import Offer, best_first

RANK_ODDS = (0.36, 0.10, 0.05, 0.03, 0.023, 0.017, 0.013, 0.011)
"""How often the next token is the successor of each rank, where the token has been scored before. Measured on
SmolLM2-135M-Instruct over 90 Spec-Bench prompts of 128 tokens, the mean of greedy and temperature 0.8."""

Successors = dict[int, list[int]]
"""Per token its k successors, best first; -1 where fewer are known."""


class Recycling:
    """Trees of `size` nodes from a matrix of the `k` successors that the target last gave every token."""

    @checked
    def __init__(self, target: Target, *, size: int = 16, k: int = len(RANK_ODDS)) -> None:
        sizes("recycling", size=size)
        within("recycling", 1, len(RANK_ODDS), k=k)
        self.k = min(k, target.vocab_size)
        self.traits = Traits(branches=True, reads_top=self.k)
        self._template = template(size, RANK_ODDS[: self.k])
        self._logq = [log(odds) for odds in RANK_ODDS]
        # Changes in `stop` alone: rows that run side by side do not see one another.
        self._matrix = np.full((target.vocab_size, self.k), -1, np.int32)

    def start(self, prompt: Prompt) -> Successors:
        """The prompt's own bigrams, ahead of what earlier requests have left."""
        state: Successors = {}
        for token, successor in pairwise(prompt):
            known = state.get(token) or self._matrix[token].tolist()
            state[token] = [successor, *(other for other in known if other != successor)][: self.k]
        return state

    def propose(self, states: Sequence[Successors], asks: Sequence[Ask]) -> list[TokenTree]:
        """The template's best nodes that the matrix can fill. logq: the log of the rank's odds."""
        return [self._tree(state, ask) for state, ask in zip(states, asks, strict=True)]

    def observe(self, states: Sequence[Successors], steps: Sequence[Step]) -> list[Successors]:
        """Overwrite the entries of all scored tokens, in place."""
        for state, step in zip(states, steps, strict=True):
            tokens = step.tree.token_list
            found = step.scores.top(range(len(tokens)), self.k)[0].tolist()
            state.update(zip(tokens, found, strict=True))
            for node in (0, *step.verdict.path):
                state[tokens[node]] = found[node]
        return list(states)

    def stop(self, state: Successors) -> None:
        """Hand the row's entries on to later requests."""
        if state:
            self._matrix[list(state)] = list(state.values())

    def successors(self, state: Successors, text: Sequence[int]) -> tuple[int, Sequence[tuple[int, float]]]:
        """(0, what may follow the last token of a text, with the odds of its rank), likeliest first."""
        row = state.get(text[-1]) or self._matrix[text[-1]].tolist()
        return 0, [(token, odds) for token, odds in zip(row, RANK_ODDS, strict=False) if token >= 0]

    def _tree(self, state: Successors, ask: Ask) -> TokenTree:
        matrix, depth, log_odds = self._matrix, ask.depth, self._logq
        tokens, parents, logq = [ask.root], [-1], [0.0]
        rows = [state.get(ask.root) or matrix[ask.root].tolist()]
        places = [0]  # of the template's nodes in the tree
        for parent, rank, level in self._template[: ask.budget]:
            place = places[parent]
            token = rows[place][rank] if place >= 0 and level <= depth else -1
            if token < 0:
                places.append(-1)
                continue
            places.append(len(tokens))
            tokens.append(token)
            parents.append(place)
            logq.append(log_odds[rank])
            rows.append(state.get(token) or matrix[token].tolist())
        return TokenTree(tokens, parents, logq=logq)


def template(size: int, odds: Sequence[float]) -> list[tuple[int, int, int]]:
    """The best `size` nodes of the infinite tree whose child of rank r is right with probability odds[r].

    One (parent, rank, level) per node, likeliest first. Nodes are numbered from 1, the root is 0; odds fall
    with the rank, so any first nodes of the list are a tree.
    """
    number = count()

    def children(node: int, level: int, taken: Offer[float]) -> list[Offer[float]]:
        """The first child of a node that is taken, and its next sibling."""
        negative, _, parent, rank, above = taken
        offers = [(negative * odds[0], next(number), node, 0, negative)]
        if node and rank + 1 < len(odds):
            offers.append((above * odds[rank + 1], next(number), parent, rank + 1, above))
        return offers

    grown = best_first(-1, 0.0, children, size=size)
    return list(zip(grown.parents, grown.tokens, grown.depths, strict=True))[1:]
