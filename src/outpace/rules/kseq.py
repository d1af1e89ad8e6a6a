"""K-SEQ: k independent drafts, all tested against the same thinned ratio.

Sun et al. 2023, "SpecTr: Fast Speculative Decoding via Optimal Transport", arXiv:2310.15141. With a factor r
between 1 and k and beta(r) = sum over x of min(q(x), p(x) / r), the chance that one test succeeds:

    keep the first x_i whose coin comes up, with chance min(1, p(x_i) / (r q(x_i)))
    one is kept with chance  1 - (1 - beta)^k
    else the token comes from  p - min(q, p / r) * (1 - (1 - beta)^k) / beta,  normalised
    r is the least for which nothing of that is negative:  1 - (1 - beta)^k = r beta

It keeps at least 1 - 1/e of what the best coupling of k independent drafts with p would. Deviation: r is
found by bisection to a part in 2^16 and taken from above, where no residual is negative: so the law is exact
for any number of rounds, and a part in 2^16 of the acceptance is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.tree import Draw
from outpace.rules.walk import Law, NodeRule, Toss, chance

NUM_HALVINGS = 16


class KSeq(NodeRule):
    """The target's law, several independent drafts per position, one ratio for all."""

    draw: Draw = "iid"

    def keep(self, p: Law, q: Law, drafts: Sequence[int], toss: Toss) -> int | Law:
        """See `NodeRule.keep`."""
        k = len(drafts)
        r = factor(p, q, k)
        for place, x in enumerate(drafts):
            if toss(chance(p[x], r * q[x])):
                return place
        thinned = np.minimum(q, p / r)
        beta = float(thinned.sum())
        # Where beta is 0, p and q share no token and all of p is left.
        taken = (1 - (1 - beta) ** k) / beta if beta > 0 else 0.0
        return np.maximum(p - thinned * taken, 0)


def factor(p: Law, q: Law, k: int) -> float:
    """The least r in [1, k] that leaves no negative residual, from above."""
    if k == 1:
        return 1.0
    # Below a ratio of 1 the minimum is p/r, above k it is q, for every r that is tried.
    low, high = p <= q, p >= k * q
    p_low, q_high = float(p[low].sum()), float(q[high].sum())
    between = ~(low | high)
    p_between, q_between = p[between], q[between]

    def fits(r: float) -> bool:
        beta = q_high + p_low / r + float(np.minimum(q_between, p_between / r).sum())
        return 1 - (1 - beta) ** k <= r * beta

    least, most = 1.0, float(k)
    for _ in range(NUM_HALVINGS):
        middle = (least + most) / 2
        least, most = (least, middle) if fits(middle) else (middle, most)
    return most
