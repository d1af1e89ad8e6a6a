"""Multi-round rejection over independent drafts: the rest of p after one draft is the law for the next.

Miao et al. 2023, "SpecInfer", arXiv:2305.09781 (multi-step speculative sampling). For children x_1 .. x_k of
a node, drawn independently from q, in this order, beginning with p:

    keep x_i with chance min(1, p(x_i) / q(x_i))
    else p becomes max(p - q, 0), normalised, and the next child is looked at
    when none is left, the token comes from the last p

Each round is speculative sampling with the p that the round before left, so the law is right whatever k is.
Deviation: the original tries the children in random order; independent draws need no shuffling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.tree import Draw
from outpace.rules.walk import Law, NodeRule, Toss, chance


class MultiDraftIid(NodeRule):
    """The target's law, several independent drafts per position."""

    draw: Draw = "iid"

    def keep(self, p: Law, q: Law, drafts: Sequence[int], toss: Toss) -> int | Law:
        """See `NodeRule.keep`."""
        for place, x in enumerate(drafts):
            if toss(chance(p[x], q[x])):
                return place
            left = np.maximum(p - q, 0)
            mass = left.sum()
            if mass <= 0:
                return left
            p = left / mass
        return p
