"""SpecHub: two drafts that share a hub, coupled with p by a sparse transport plan.

Sun et al. 2024, "SpecHub: Provable Acceleration to Multi-Draft Speculative Decoding", arXiv:2411.05289. The
hub a is the drafter's likeliest token. One draw x from q: the pair is (x, a), or, if x = a, (a, y) with a
second draw y without a. So Q(x, a) = q(x) and Q(a, y) = q(a) q(y) / (1 - q(a)). Of the mass of p,

    every pair (x, a) takes for its first token      min(Q(x, a), p(x))
    every pair (a, y) takes for its second           min(Q(a, y), p(y) - what (y, a) took)
    what is left of the pairs (a, .), then of (., a), takes for the hub what p(a) has left
    what is left of the pairs draws from what is left of p

A pair keeps a token with the share of its own mass that it took, so every token gets p(x) in all. Deviation:
a node with one child (a policy of width 1, or a law of one token) is judged by speculative sampling.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.tree import Draw
from outpace.rules.walk import Law, NodeRule, Toss, chance


class SpecHub(NodeRule):
    """The target's law, two drafts per position of which one is the drafter's likeliest token."""

    draw: Draw = "hub"

    def keep(self, p: Law, q: Law, drafts: Sequence[int], toss: Toss) -> int | Law:
        """See `NodeRule.keep`."""
        if len(drafts) == 1:
            x = drafts[0]
            return 0 if toss(chance(p[x], q[x])) else np.maximum(p - q, 0)
        hub = int(np.argmax(q))
        first = q.copy()  # mass of the pair (x, hub), by x
        first[hub] = 0
        second = first / first.sum() * q[hub]  # mass of the pair (hub, y), by y
        by_first = np.minimum(first, p)
        by_first[hub] = 0
        left = p - by_first
        by_second = np.minimum(second, left)
        by_second[hub] = 0
        left -= by_second
        of_second = float(second.sum() - by_second.sum())
        of_first = float(first.sum() - by_first.sum())
        hub_of_second = min(of_second, float(left[hub]))
        hub_of_first = min(of_first, float(left[hub]) - hub_of_second)
        left[hub] -= hub_of_second + hub_of_first
        place, own, taken, rest, hub_taken = (
            (1, second, by_second, of_second, hub_of_second)
            if drafts[0] == hub
            else (0, first, by_first, of_first, hub_of_first)
        )
        x = drafts[place]
        if toss(chance(taken[x], own[x])):
            return place
        if toss(chance(hub_taken, rest)):
            return 1 - place
        return np.maximum(left, 0)
