"""The first drafts are kept whatever the target says, so that no step commits less than a block.

Minimum block size of blockwise parallel decoding (Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115, section
5.3). Lossy, and the authors found it a bad trade: it is here to be compared with.

    keep    down to depth `length`: the target's own choice if it is a child, else the first child
            below that: as `match`

length = 0 is `match`. Deviation: also for trees, where the target's own choice goes before the first child.
"""

from __future__ import annotations

from outpace.core.options import checked, within
from outpace.core.sampling import Sampling
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.rules.match import by_choices


class MinBlock:
    """Keeps the first `length` drafts of a path."""

    exactness: Exactness = "lossy"
    draw: Draw = "point"
    needs_law = False

    @checked
    def __init__(self, *, length: int = 1) -> None:
        within("min_block", 0, length=length)
        self.length = length

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Reads nothing but the choices."""

        def first_child(node: int) -> int:
            return tree.children(node)[0] if tree.shape.depths[node] < self.length else -1

        return by_choices(tree, scores, self.exactness, first_child)
