"""Block verification: the drafts of a block are judged together, which keeps more of them than one by one.

Sun et al. 2024, "Block Verification Accelerates Speculative Decoding", arXiv:2403.10444. For the drafts
x_1 .. x_g from q, with p and q meaning the laws after x_1 .. x_i:

    P_0 = 1,  P_i = min(1, P_(i-1) p(x_i) / q(x_i)): the chance that a block of this beginning keeps i or more
    A_i = sum of max(P_i p - q, 0);  h_i = A_i / (A_i + 1 - P_i) for i < g,  h_g = P_g
    tau = the last i whose coin comes up with chance h_i, or 0; there is no stop at the first that does not
    the token after x_1 .. x_tau comes from max(P_tau p - q, 0), normalised; after all g, from p

What is kept of a block depends on drafts behind it, so the next block's drafts and coins have to be new:
both depend on the position of their root. Deviations: the token after a whole block is the target's own
choice; in a tree, the path of the first children is judged.
"""

from __future__ import annotations

import numpy as np

from outpace.core.sampling import Sampling
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.rules.match import by_choices
from outpace.rules.walk import chance, has_laws, stand_in, tosses


class Block:
    """The target's law, one draft per position, judged as a block."""

    exactness: Exactness = "distribution"
    draw: Draw = "iid"
    needs_law = True

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Asks for the laws of the whole first path, or down to where the target never goes."""
        if not has_laws(self, tree, sampling):
            return by_choices(tree, scores, self.exactness)
        toss = tosses(sampling.seed, position)
        path: list[int] = []
        tau, node, reach = 0, 0, 1.0  # reach: P_i of the node
        while (children := tree.children(node)) and reach > 0:
            p, q = scores.law(node, sampling), tree.law(node)
            assert q is not None and len(p) == len(q), "a drafter's law is over the target's vocabulary"
            over = np.maximum(reach * p - q, 0)
            if not path or toss(stop_chance(float(over.sum()), reach)):
                tau, left, p_tau = len(path), over, p
            node = children[0]
            path.append(node)
            x = tree.token_list[node]
            reach = chance(reach * float(p[x]), float(q[x]))
        if toss(reach):
            return Verdict(path, scores.choices[node], self.exactness)
        return Verdict(path[:tau], stand_in(left, p_tau, sampling.seed, position), self.exactness)


def stop_chance(over: float, reach: float) -> float:
    """h_i from A_i and P_i. Where both sums are 0, a later i is taken for certain and any value will do."""
    return over / (over + 1 - reach) if over + 1 - reach > 0 else 1.0
