"""A draft will do if its id is close to that of the target's choice.

Distance-based acceptance of blockwise parallel decoding (Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115,
section 5.2), for vocabularies whose order means something: intensities of pixels, quantised sound. Lossy.

    keep    the child with the least |draft - choice|, if that is at most eps

The choice itself has distance 0, so eps = 0 is `match`. Deviation: also for trees and under sampling, where
the choice is the one drawn.
"""

from __future__ import annotations

from outpace.core.options import checked, within
from outpace.core.sampling import Sampling
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.rules.match import by_choices


class Distance:
    """Keeps drafts at most `eps` ids from the target's choice."""

    exactness: Exactness = "lossy"
    draw: Draw = "point"
    needs_law = False

    @checked
    def __init__(self, *, eps: int = 2) -> None:
        within("distance", 0, eps=eps)
        self.eps = eps

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Reads nothing but the choices."""
        choices = scores.choices

        def nearest_child(node: int) -> int:
            choice = choices[node]
            distance, child = min(
                (abs(tree.token_list[child] - choice), child) for child in tree.children(node)
            )
            return child if distance <= self.eps else -1

        return by_choices(tree, scores, self.exactness, nearest_child)
