"""Multi-round rejection over drafts without replacement: no round is spent on a token that was rejected.

Yang et al. 2024, "Multi-Candidate Speculative Decoding", arXiv:2401.06706; Chen et al. 2024, "Sequoia",
arXiv:2402.12374; Jeon et al. 2024, "Recursive Speculative Decoding", arXiv:2402.14160. For children
x_1 .. x_k of a node, drawn one after another from q without replacement, beginning with p and q:

    keep x_i with chance min(1, p(x_i) / q(x_i))
    else p becomes max(p - q, 0), normalised; q loses x_i and is normalised: the law of the next draw
    when none is left, the token comes from the last p

Each round is speculative sampling with the p and q that the round before left, so the law is right if the
children really were drawn in this way and order: Gumbel top-k does (`trees/grow.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.tree import Draw
from outpace.rules.walk import Law, NodeRule, Toss, chance


class MultiDraft(NodeRule):
    """The target's law, several different drafts per position."""

    draw: Draw = "without_replacement"

    def keep(self, p: Law, q: Law, drafts: Sequence[int], toss: Toss) -> int | Law:
        """See `NodeRule.keep`."""
        for place, x in enumerate(drafts):
            if toss(chance(p[x], q[x])):
                return place
            left = np.maximum(p - q, 0)
            mass, q = left.sum(), q.copy()
            q[x] = 0
            rest = q.sum()
            if mass <= 0 or rest <= 0:  # the second: x was all that q had, so it is the last child
                return left
            p, q = left / mass, q / rest
        return p
