"""Descend while a child is the target's own choice, then emit the choice.

Exact acceptance of blockwise parallel decoding (Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115), for
trees and for sampling alike: the choice after a node is a function of the node's path, the seed and the
position (`core/sampling.py`), so the output is what plain decoding gives, token for token, whatever was
proposed and however it was drawn.
"""

from __future__ import annotations

from outpace.core.contracts import Exactness, RowScores, Verdict
from outpace.core.sampling import Sampling
from outpace.core.tree import Draw, TokenTree


class Match:
    """The default rule: identical to plain decoding for any tree and any draw."""

    exactness: Exactness = "identical"
    draw: Draw = "without_replacement"  # in the target's own noise, so that drafts agree as often as can be
    needs_law = False

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Reads nothing but the choices."""
        choices, path, node = scores.choices, [], 0
        while (child := tree.child(node, choices[node])) > 0:
            path.append(child)
            node = child
        return Verdict(path, choices[node], self.exactness)
