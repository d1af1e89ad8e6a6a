"""Descend while a child is the target's own choice, then emit the choice.

Exact acceptance of blockwise parallel decoding (Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115), for
trees and for sampling alike: the choice after a node is a function of the node's path, the seed and the
position (`core/sampling.py`), so the output is what plain decoding gives, token for token, whatever was
proposed and however it was drawn.
"""

from __future__ import annotations

from collections.abc import Callable

from outpace.core.sampling import Sampling
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree


class Match:
    """The default rule: identical to plain decoding for any tree and any draw."""

    exactness: Exactness = "identical"
    draw: Draw = "point"  # any will do, so drafters draw in the target's own noise and agree most often
    needs_law = False

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Reads nothing but the choices."""
        return by_choices(tree, scores, self.exactness)


def by_choices(
    tree: TokenTree,
    scores: RowScores,
    exactness: Exactness,
    otherwise: Callable[[int], int] | None = None,
) -> Verdict:
    """The verdict of the target's own choices.

    Where none of a node's children is the choice, a lossy rule's `otherwise` (node -> child, or -1) may name
    one that will do. A node without children is not asked about.
    """
    choices, node = scores.choices, 0
    path: list[int] = []
    while True:
        child = tree.child(node, choices[node])
        if child < 0 and otherwise is not None and tree.children(node):
            child = otherwise(node)
        if child < 0:
            return Verdict(path, choices[node], exactness)
        path.append(child)
        node = child
