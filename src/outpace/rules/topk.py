"""A draft will do if it is among the k tokens that the target likes best.

Top-k acceptance of blockwise parallel decoding (Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115, section
5.1). Lossy: the output keeps drafts that the target would not have chosen.

    rank    tokens by what the target's choice is the argmax of: logits / T + noise, or logits if greedy
    keep    the target's own choice (rank 1) if it is a child, else the child of the best rank up to k

Deviations: the original is greedy and drafts chains. With the noise, what is kept under sampling is one of k
draws without replacement from the target's law, not one of its k likeliest tokens, so temperature keeps its
meaning and k = 1 is `match`.
"""

from __future__ import annotations

import numpy as np

from outpace.core.options import checked, within
from outpace.core.sampling import Sampling, gumbel
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.rules.match import by_choices


class TopK:
    """Keeps drafts among the target's `k` best."""

    exactness: Exactness = "lossy"
    draw: Draw = "point"
    needs_law = False

    @checked
    def __init__(self, *, k: int = 2) -> None:
        within("topk", 1, k=k)
        self.k = k

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Asks for the law of nodes where no child is the target's choice."""

        def best_child(node: int) -> int:
            # Greedy laws are one-hot: there the softmax has the order of the logits.
            law = scores.law(node, sampling if sampling.temperature > 0 else Sampling(temperature=1.0))
            tokens = np.flatnonzero(law)
            value = np.full(len(law), -np.inf)
            value[tokens] = np.log(law[tokens])
            if sampling.temperature > 0:
                value[tokens] += gumbel(sampling.seed, position + tree.shape.depths[node] + 1, tokens)
            ranked = [(self._rank(value, tree.token_list[child]), child) for child in tree.children(node)]
            rank, child = min(ranked)
            return child if rank <= self.k and value[tree.token_list[child]] > -np.inf else -1

        return by_choices(tree, scores, self.exactness, best_child if self.k > 1 else None)

    @staticmethod
    def _rank(value: np.ndarray, token: int) -> int:
        """1 for the best; ties to the lower id."""
        own = value[token]
        return 1 + int(np.count_nonzero(value > own)) + int(np.count_nonzero(value[:token] == own))
