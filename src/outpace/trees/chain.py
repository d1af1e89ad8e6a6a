"""A chain: one token after another, `length` of them, or fewer where the draft grows unsure.

Fixed lengths: Leviathan, Kalman & Matias 2022, arXiv:2211.17192. Stopping: Draft & Verify (Zhang et al. 2023,
arXiv:2309.08168) and Kangaroo (Liu et al. 2024, arXiv:2404.18911) end a draft where the drafter's confidence
falls below a threshold.

    expand  the last node, until there are `length`
    grow    the first candidate, unless its probability is below `min_p`
    prune   cut the end off

The draw stays valid: where the rule reads laws, the largest probability of the law decides instead of that of
the token drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.options import checked, sizes, within
from outpace.core.steps import Candidates
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree


class Chain:
    """Up to `length` tokens; none that has a probability below `min_p` (0 is off)."""

    width = 1

    @checked
    def __init__(self, *, length: int = 4, min_p: float = 0.0) -> None:
        sizes("chain", length=length)
        within("chain", 0, 1, min_p=min_p)
        self.length = length
        self.min_p = min_p
        self.traits = Traits(reads_logq=min_p > 0)

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The last node."""
        node = tree.num_nodes - 1
        return [node] if node < self.length else []

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """One more token, if it is likely enough."""
        if self.min_p == 0:
            return candidates.hang(tree, [1])
        drawn = candidates.draw != "point"
        sure = np.max(candidates.laws[0]) if drawn else np.exp(candidates.logq[0, 0])
        return candidates.hang(tree, [int(sure >= self.min_p)])

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The first tokens. Which they are says nothing about what was drawn."""
        return tree if tree.num_nodes - 1 <= budget else tree.prune([budget], blind=True)


class OpenChain(Chain):
    """A chain of up to `length` tokens that ends where the drafter is less sure than `Ask.min_p`."""

    def __init__(self, *, length: int) -> None:
        super().__init__(length=length)
        self.traits = Traits(stops=True)
