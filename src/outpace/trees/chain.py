"""A chain: one token after another, `length` of them, or fewer where the draft grows unsure.

Fixed lengths: Leviathan, Kalman & Matias 2022, arXiv:2211.17192. Stopping: Draft & Verify (Zhang et al. 2023,
arXiv:2309.08168) and Kangaroo (Liu et al. 2024, arXiv:2404.18911) end a draft where the drafter's largest
probability falls below a threshold.

    expand  the last node, until there are `length`
    grow    the first candidate, unless no token has a probability of `min_p`
    prune   cut the end off
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.contracts import Candidates
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree


class Chain:
    """Up to `length` tokens; none after a node whose law has no token of probability `min_p`."""

    width = 1

    def __init__(self, *, length: int = 4, min_p: float = 0.0) -> None:
        if length < 1:
            raise OutpaceError(f"chain has length={length}, accepted are whole numbers >= 1")
        if not 0 <= min_p <= 1:
            raise OutpaceError(f"chain has min_p={min_p}, accepted are 0 to 1")
        self.length = length
        self.min_p = min_p

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The last node."""
        node = tree.num_nodes - 1
        return [node] if node < self.length else []

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """One more token, unless the law is too flat: that looks at the law, not at the draw."""
        sure = float(np.max(candidates.laws[0])) >= self.min_p
        return candidates.hang(tree, [int(sure)])

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The first tokens. Which they are says nothing about what was drawn."""
        return tree.fit(tree.token_list[0], vocab_size=2**31, budget=tree.num_nodes, depth=budget)
