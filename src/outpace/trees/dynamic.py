"""EAGLE-2's tree: grows where the draft is sure, and keeps the best nodes of all.

Li et al. 2024, "EAGLE-2: Faster Inference of Language Models with Dynamic Draft Trees", arXiv:2406.16858. The
value of a node is the product of the draft's probabilities on its path: about its chance to be accepted.

    expand  the `k` nodes of the last level with the highest values, for `depth` levels
    grow    `k` children of each
    prune   rank all nodes again and keep the best `size`; a parent is never worth less than its child

The draw is a "point" draw: which nodes stay depends on the tokens drawn.

Deviations. A node that is not among the best `size` so far is not expanded, for none of its children can be
in the end. Sizes are smaller than the paper's (k = 10, depth 6, 60 nodes): on a CPU a call of 60 nodes costs
more than one of 16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from outpace.core.options import checked, sizes
from outpace.core.steps import Candidates
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.trees.template import best


class Dynamic:
    """The `size` likeliest nodes of a tree with `k` nodes of `k` children each on each of `depth` levels."""

    traits = Traits(keeps_draw=False)
    _name = "dynamic"

    @checked
    def __init__(self, *, size: int = 16, k: int = 4, depth: int = 6) -> None:
        sizes(self._name, size=size, k=k, depth=depth)
        self.size = size
        self.width = k
        self.depth = depth

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The best of the last level."""
        if tree.shape.height >= self.depth:
            return []
        values = joint(tree)
        hopeful = best(values, self.size + 1)
        frontier = [node for node in hopeful if tree.shape.depths[node] == tree.shape.height]
        return sorted(frontier[: self.width])

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """All candidates."""
        return replace(candidates, draw="point").hang(tree, [self.width] * len(candidates.nodes))

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The best nodes of all levels."""
        return tree.prune(best(joint(tree), 1 + min(budget, self.size)))


def joint(tree: TokenTree) -> list[float]:
    """For every node the log-probability of its whole path."""
    values = [0.0]
    if tree.logq is not None:
        for parent, logq in zip(tree.shape.parent_list[1:], tree.logq.tolist()[1:], strict=True):
            values.append(values[parent] + logq)
    return values
