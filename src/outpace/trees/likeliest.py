"""The likeliest paths, best first: for drafters that can name the successors of any node at once.

Where no model has to run for a node's successors, a tree need not grow level by level: the node with the
largest product of probabilities is taken next, whatever its depth, and its successors join the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from math import log

from outpace.core.tree import TokenTree

After = Callable[[list[int], int], Iterable[tuple[int, float]]]
"""(text up to and with a node, its depth) -> (token, probability) pairs of what may come next."""


def likeliest(text: list[int], after: After, *, size: int, depth: int, min_p: float) -> TokenTree:
    """A tree on the last token of `text`: `size` nodes at most, no path less likely than `min_p`.

    Its logq are the log-probabilities after the parents.
    """
    tokens, parents, logq, depths, texts = [text[-1]], [-1], [0.0], [0], [text]
    heap: list[tuple[float, int, int, float]] = []
    node, p = 0, 1.0
    while True:
        if depths[node] < depth:
            for token, q in after(texts[node], depths[node]):
                if p * q >= min_p and q > 0:
                    heappush(heap, (-p * q, node, token, q))
        node = len(tokens)
        if not heap or node > size:
            return TokenTree.grown(tokens, parents, logq)
        negative, parent, token, q = heappop(heap)
        p = -negative
        tokens.append(token)
        parents.append(parent)
        logq.append(log(q))
        depths.append(depths[parent] + 1)
        texts.append([*texts[parent], token])
