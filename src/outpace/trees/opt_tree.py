"""OPT-Tree: the nodes with the largest expected accepted length, as deep as a level still adds to it.

Wang et al. 2024, "OPT-Tree: Speculative Decoding with Adaptive Draft Tree Structure", arXiv:2406.17276. The
weight of a node is the product of the draft's probabilities on its path. The sum of a tree's weights is the
accepted length to be expected, and the `size` heaviest nodes are the best tree of that size.

    expand  the nodes of the last level that are among the `size` heaviest, as long as the last level has
            added `gain` to the sum of the `size` largest weights, for at most `depth` levels
    grow    `k` children of each
    prune   the `size` heaviest nodes of all levels

The draw is a "point" draw: which nodes stay depends on the tokens drawn.

Deviations. A node has at most `k` children; the paper takes a whole level's best from all tokens. Nodes that
cannot be in the final tree are not expanded, which changes nothing but the work.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from outpace.core.options import checked, within
from outpace.core.tree import TokenTree
from outpace.trees.dynamic import Dynamic, joint
from outpace.trees.template import best


class OptTree(Dynamic):
    """`size` nodes; another level is drafted while the last one was worth `gain` accepted tokens."""

    _name = "opt_tree"

    @checked
    def __init__(self, *, size: int = 16, k: int = 8, gain: float = 0.2, depth: int = 10) -> None:
        super().__init__(size=size, k=k, depth=depth)
        within("opt_tree", 0, gain=gain)
        self.gain = gain

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The hopeful nodes of the last level, if it was worth its price."""
        depths, height, values = tree.shape.depths, tree.shape.height, joint(tree)
        if height >= self.depth:
            return []
        if height:
            before = [value for value, depth in zip(values, depths, strict=True) if depth < height]
            if self._expected(values) - self._expected(before) < self.gain:
                return []
        return sorted(node for node in best(values, self.size + 1) if depths[node] == height)

    def _expected(self, values: Sequence[float]) -> float:
        """The accepted length to be expected of the `size` heaviest nodes."""
        return sum(map(math.exp, heapq.nlargest(self.size, values[1:])))
