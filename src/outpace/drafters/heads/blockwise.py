"""Blockwise parallel decoding: heads on the target's own hidden state propose the next k tokens at once.

Stern, Shazeer & Uszkoreit 2018, "Blockwise Parallel Decoding for Deep Autoregressive Models",
arXiv:1811.03115. Heads are trained by `outpace train blockwise`.

    observe   the call that verified the last draft has the hidden state behind every node: that of the last
              kept node stays
    propose   head 1 there is the target itself, whose choice is committed already; heads 2 to k
              (`heads/proposals.py`) give the tokens after it, each without knowing the others

So verifying and predicting are one call, and a vector is all that a row holds: `independent.py`.

Deviations. Head 1 is the identity: exact rules give the base model's own output. A tree of the likeliest
combinations takes the place of the paper's chain of every head's best (`tree=chain`). With sampling, heads
add the target's noise to their logits and so draft the very sample. The rule `distance` keeps tokens near the
target's choice; for it, a chain may take the token of each head that is likeliest to be near (`near`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Tapped, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.drafters.heads.independent import IndependentHeads, check_shape
from outpace.heads.file import METHOD
from outpace.heads.packaged import packaged_heads
from outpace.heads.proposals import ProposalHeads, tapped


class Blockwise(IndependentHeads):
    """Trees of what trained heads propose: the `size` likeliest nodes, no path less likely than `min_p`.

    path   folder of the heads; "auto" for those that come with the package, if there are any for the model.
    heads  how many heads to use, head 1 included; None for all.
    tree   another shape; `size` and `min_p` have no effect then.
    near   draft the token with the most probability on it and on this many ids to both sides: the eps of the
           rule `distance`. For a chain, and heads that draft neighbouring ids. It has no effect where tokens
           are sampled, where some are forbidden, and for rules that read laws.
    """

    @checked
    def __init__(
        self,
        target: Tapped,
        *,
        path: str = "auto",
        heads: int | None = None,
        size: int = 6,
        min_p: float = 0.1,
        tree: TreePolicy | None = None,
        near: int = 0,
    ) -> None:
        check_shape(METHOD, size, min_p)
        found = ProposalHeads(
            target,
            packaged_heads(tapped(target, METHOD), METHOD) if path == "auto" else path,
            num_heads=heads,
        )
        super().__init__(found, size=size, min_p=min_p, tree=tree)
        self._near = near
        self._check_near()

    def _best(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """[L, M] -> [L]: what a greedy chain takes of every head."""
        return super()._best(_within(logits, self._near) if self._near else logits)

    def _check_near(self) -> None:
        ids = self._heads.token_ids
        count = self._heads.vocab_size if ids is None else len(ids)
        if not 0 <= self._near < count:
            raise OutpaceError(f"blockwise has near={self._near}, accepted are 0 to {count - 1}")
        if self._near and not self._is_fixed:
            raise OutpaceError(
                f"blockwise has near={self._near}, accepted with tree=chain:length=K and no min_p"
            )
        if self._near and ids is not None and (np.diff(ids) != 1).any():
            raise OutpaceError(
                f"blockwise has near={self._near}, accepted with heads that draft neighbouring ids alone"
            )


def _within(logits: NDArray[np.float32], near: int) -> NDArray[np.float32]:
    """[L, M] -> [L, M]: in proportion, the probability of all tokens that are at most `near` ids away."""
    count = logits.shape[1]
    padded = np.zeros((len(logits), count + 2 * near), np.float32)
    np.exp(logits - logits.max(axis=1, keepdims=True), out=padded[:, near : near + count])
    total = padded[:, :count].copy()
    for shift in range(1, 2 * near + 1):  # a few sums of rows are faster than one of windows
        total += padded[:, shift : shift + count]
    return total
