"""Blockwise drafts mended by a small language model that reads along.

Kim et al. 2024, "Exploring and Improving Drafts in Blockwise Parallel Decoding", arXiv:2404.09221, local
neural rescoring. From left to right, a small model scores the `ranks` best tokens S_j of each head behind
what has been chosen before, and its logits are added:

    z_j[S_j] += alpha * r[S_j],    all other tokens -inf

Head 1 is the target's own choice and committed already. A level costs a call of the small model, whose rows
are kept as in `small_model`.

Deviations. Log-probabilities on both sides, of the heads and of the small model, so that alpha means the same
for any two models. With `tree`, the levels have the shape that it gives them instead of a chain's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Prompt
from outpace.core.contracts import Tapped, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters.heads.blockwise import Blockwise
from outpace.drafters.heads.last_state import HeadsState
from outpace.drafters.model.small_model import SmallModel, SmallModelState, small_model
from outpace.trees.grow import grow_trees


class BlockwiseLocalState:
    """A row of the heads and one of the small model."""

    __slots__ = ("heads", "small")

    def __init__(self, heads: HeadsState, small: SmallModelState) -> None:
        self.heads = heads
        self.small = small


class BlockwiseLocal:
    """Chains, or trees of another shape, of what heads propose and a small model prefers among it.

    heads  their drafter, whose tree shapes the drafts. small: of the target's vocabulary.
    alpha  weight of the small model's log-probabilities; the heads' have 1.
    ranks  how many of each head's tokens it chooses among.
    """

    @checked
    def __init__(self, heads: Blockwise, small: SmallModel, *, alpha: float = 1.0, ranks: int = 8) -> None:
        if alpha < 0 or ranks < 1:
            raise OutpaceError(
                f"blockwise_local has alpha={alpha} and ranks={ranks}, accepted are numbers >= 0 and whole "
                "numbers >= 1"
            )
        if not small.same_vocabulary:
            raise OutpaceError(
                "blockwise_local rescores token by token, accepted are models of one vocabulary"
            )
        self._heads = heads
        self._small = small
        self._alpha = alpha
        self._ranks = ranks
        self.traits = replace(heads.traits, branches=heads.policy.width > 1, paced="always")

    def start(self, prompt: Prompt) -> BlockwiseLocalState:
        """Both rows."""
        return BlockwiseLocalState(self._heads.start(prompt), self._small.start(prompt))

    def propose(self, states: Sequence[BlockwiseLocalState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row; root-only where the small model cannot go on, and before the first step."""
        proposals = [TokenTree.root(ask.root) for ask in asks]
        asks = [
            ask if state.heads.hidden is not None else replace(ask, budget=0)
            for state, ask in zip(states, asks, strict=True)
        ]
        drafting, own, calls = self._small.calls([state.small for state in states], asks)
        if not drafting:
            return proposals
        ahead = self._heads.step([states[number].heads for number in drafting])

        def step(
            rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
        ) -> list[NDArray[np.float32] | None]:
            theirs = ahead(rows, trees, nodes)
            # Levels that no head reaches cost no call.
            at = [place for place, logits in enumerate(theirs) if logits is not None]
            small = (
                calls.step([rows[p] for p in at], [trees[p] for p in at], [nodes[p] for p in at])
                if at
                else []
            )
            mended: list[NDArray[np.float32] | None] = [None] * len(rows)
            for place, opinion in zip(at, small, strict=True):
                heads = theirs[place]
                mended[place] = heads if opinion is None or heads is None else self._mend(heads, opinion)
            return mended

        for number, tree in zip(drafting, grow_trees(own, self._heads.policy, step), strict=True):
            proposals[number] = tree
        return proposals

    def observe(
        self, states: Sequence[BlockwiseLocalState], steps: Sequence[Step]
    ) -> list[BlockwiseLocalState]:
        """Both learn."""
        self._heads.observe([state.heads for state in states], steps)
        self._small.observe([state.small for state in states], steps)
        return list(states)

    def stop(self, state: BlockwiseLocalState) -> None:
        """Give the small model's row back."""
        self._small.stop(state.small)

    def _mend(self, heads: NDArray[np.float32], opinion: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits [F, V] of heads and of the small model at nodes -> of the heads' best tokens, by both."""
        mended = np.full_like(heads, -np.inf)
        count = min(self._ranks, heads.shape[1])
        for row, (z, r) in enumerate(zip(heads, opinion, strict=True)):
            best = np.argpartition(-z, count - 1)[:count]
            best = best[z[best] > -np.inf]
            mended[row, best] = (z[best] - z.max()) + self._alpha * (r[best] - _log_total(r))
        return mended


@checked
def blockwise_local(
    target: Tapped,
    tokenizer: Any,
    open_model: Callable[[str], Any],
    *,
    model: str,
    path: str = "auto",
    heads: int | None = None,
    alpha: float = 1.0,
    ranks: int = 8,
    tree: TreePolicy | None = None,
) -> BlockwiseLocal:
    """From a small model's short name, file or folder; `path` and `heads` are those of `blockwise`."""
    small = small_model(target, tokenizer, open_model, model=model)
    return BlockwiseLocal(
        Blockwise(target, path=path, heads=heads, tree=tree), small, alpha=alpha, ranks=ranks
    )


def _log_total(logits: NDArray[np.floating]) -> float:
    peak = float(logits.max())
    return peak + float(np.log(np.exp(logits - peak).sum()))
