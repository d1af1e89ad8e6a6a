"""The likeliest paths, best first: for drafters that can name the successors of any node at once.

Where no model has to run for a node's successors, a tree need not grow level by level: the node with the
largest odds (product of probabilities) is taken next, whatever its depth, and its successors join the queue.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from math import log
from typing import Any, NamedTuple, TypeVar

from outpace.core.tree import TokenTree

Place = TypeVar("Place")

Offer = tuple[float, Any, int, int, Place]
"""(minus the odds of the path, decider, parent, token, place). The decider is a number or a tuple: of
equal odds the smaller one is taken first, then the older parent. The place is whatever `Children` has to know
of a node."""

Children = Callable[[int, int, Offer[Place]], Iterable[Offer[Place]]]
"""(node, its depth, the offer that it was) -> offers of its children.

It may hold siblings back and offer each when the one before it has been taken."""


class Grown(NamedTuple):
    """A tree, node by node as they were taken; node 0 is the root."""

    tokens: list[int]
    parents: list[int]
    depths: list[int]
    odds: list[float]

    def tree(self) -> TokenTree:
        """Its logq: the log of a node's odds after its parent."""
        odds = self.odds
        logq = [log(p / odds[parent]) for p, parent in zip(odds, self.parents, strict=True)]
        logq[0] = 0.0
        return TokenTree.grown(self.tokens, self.parents, logq)


def best_first(
    root: int, place: Place, children: Children[Place], *, size: int, depth: int = sys.maxsize
) -> Grown:
    """The `size` nodes of the largest odds on a token, on at most `depth` levels; no node of odds 0.

    `place` is that of the root itself.
    """
    taken: Offer[Place] = (-1.0, 0, -1, root, place)
    tokens, parents, depths, odds = [root], [-1], [0], [1.0]
    heap: list[Offer[Place]] = []
    node, level = 0, 0
    while True:
        if level < depth and node < size:
            for offer in children(node, level, taken):
                heappush(heap, offer)
        node += 1
        if node > size or not heap or not heap[0][0]:
            break
        taken = heappop(heap)
        negative, _, parent, token, _ = taken
        level = depths[parent] + 1
        tokens.append(token)
        parents.append(parent)
        depths.append(level)
        odds.append(-negative)
    return Grown(tokens, parents, depths, odds)


def branches(texts: Sequence[Sequence[int]], level: int) -> dict[int, list[Sequence[int]]]:
    """The tokens at a place of these texts, each with the texts that have it there."""
    found: dict[int, list[Sequence[int]]] = {}
    for text in texts:
        if level < len(text):
            found.setdefault(text[level], []).append(text)
    return found


After = Callable[[list[int], int], Iterable[tuple[int, float]]]
"""(text up to and with a node, its depth) -> (token, probability) pairs of what may come next."""


def likeliest(text: list[int], after: After, *, size: int, depth: int, min_p: float) -> TokenTree:
    """A tree on the last token of `text`: `size` nodes at most, no path less likely than `min_p`.

    Its logq are the log-probabilities after the parents.
    """

    def children(node: int, level: int, taken: Offer[list[int]]) -> list[Offer[list[int]]]:
        negative, _, _, token, above = taken
        text = [*above, token]
        return [
            (negative * q, 0, node, token, text)
            for token, q in after(text, level)
            if -negative * q >= min_p and q > 0
        ]

    return best_first(text[-1], text[:-1], children, size=size, depth=depth).tree()
