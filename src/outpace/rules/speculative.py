"""Speculative sampling: keep a draft with chance p/q, else draw from what p has beyond q.

Leviathan, Kalman & Matias 2022, "Fast Inference from Transformers via Speculative Decoding",
arXiv:2211.17192; Chen et al. 2023, "Accelerating Large Language Model Decoding with Speculative Sampling",
arXiv:2302.01318. For a draft x from q, where the target's law is p:

    keep x with chance min(1, p(x) / q(x)): over all draws, x is drafted and kept with mass min(p(x), q(x))
    else the token comes from max(p - q, 0), normalised: the rest of p(x), and no more
    kept on average: sum of min(p, q) = 1 - the total variation between p and q; no coupling keeps more

Deviations: at the end of the draft the target's own choice is taken instead of a new draw from p. In a tree,
only the first child of every node is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.tree import Draw
from outpace.rules.walk import Law, NodeRule, Toss, chance


class Speculative(NodeRule):
    """The target's law, one draft per position."""

    draw: Draw = "iid"

    def keep(self, p: Law, q: Law, drafts: Sequence[int], toss: Toss) -> int | Law:
        """See `NodeRule.keep`."""
        x = drafts[0]
        return 0 if toss(chance(p[x], q[x])) else np.maximum(p - q, 0)
