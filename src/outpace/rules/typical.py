"""A draft will do if the target finds it typical: likely enough for how unsure the target is.

Typical acceptance of Medusa (Cai et al. 2024, arXiv:2401.10774, section 2.3.1), after Hewitt, Manning & Liang
2022, "Truncation Sampling as Language Model Desmoothing", arXiv:2210.15191. Lossy. With p the target's law
after a node and H(p) its entropy in nats:

    keep    the target's own choice if it is a child, else the likeliest child x, if
            p(x) > min(eps, delta * exp(-H(p)))

The paper takes the first token of every step greedily and without a test: that is our root, which the step
before chose. Greedy laws are one-hot, so at temperature 0 this is `match`. Deviations: that token is the
target's own choice, drawn where the request samples; a tree is descended node by node, where the original
takes the longest of its typical paths.
"""

from __future__ import annotations

import math

import numpy as np

from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.sampling import Sampling
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.rules.match import by_choices


class Typical:
    """Keeps drafts of probability above `eps`, or `delta` * exp(-entropy) where that is less."""

    exactness: Exactness = "lossy"
    draw: Draw = "point"
    needs_law = False

    @checked
    def __init__(self, *, eps: float = 0.09, delta: float = 0.3) -> None:
        if not (0 <= eps <= 1 and 0 <= delta < math.inf):
            accepted = "0 <= eps <= 1 and finite delta >= 0"
            raise OutpaceError(f"typical has eps={eps} and delta={delta}, accepted are {accepted}")
        self.eps = eps
        self.delta = delta

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Asks for the law of nodes where no child is the target's choice."""

        def likeliest_child(node: int) -> int:
            p = scores.law(node, sampling)
            some = p[p > 0]
            threshold = min(self.eps, self.delta * math.exp(float(some @ np.log(some))))
            child = max(tree.children(node), key=lambda child: p[tree.token_list[child]])
            return child if p[tree.token_list[child]] > threshold else -1

        return by_choices(tree, scores, self.exactness, likeliest_child if sampling.temperature > 0 else None)
