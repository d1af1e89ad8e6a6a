"""Drafts of heads that do not know one another: what `blockwise` and `medusa` have in common.

Stern, Shazeer & Uszkoreit 2018, "Blockwise Parallel Decoding for Deep Autoregressive Models",
arXiv:1811.03115.

    observe   the call that verified the last draft has the hidden state behind every node: that of the last
              kept node stays
    propose   every head reads it and gives the token of its own depth, the same below any node

So verifying and predicting are one call, and a vector is all that a row holds. A tree holds the likeliest
combinations of the heads' tokens. With sampling, heads add the target's noise to their logits and so draft
the very sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Prompt
from outpace.core.contracts import TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import sizes
from outpace.core.steps import Ask, Step
from outpace.core.traits import Paced
from outpace.core.tree import TokenTree
from outpace.drafters.heads.last_state import HeadsState, begun_rows, keep_last, stacked
from outpace.trees.chain import Chain
from outpace.trees.grow import StepFunction, grow_trees, paced_by, point_law, traits_of
from outpace.trees.likeliest import After, likeliest

RANKS = 8  # of each head's tokens come into a tree of the likeliest
FLOOR = 0.01  # and none of a smaller probability
Pairs = list[tuple[int, float]]


class HeadsByDepth(Protocol):
    """Heads where the target computes: `num_drafted` of them, which draft these tokens (None: all)."""

    num_drafted: int
    vocab_size: int

    @property
    def token_ids(self) -> NDArray[np.integer] | None:
        """[M], ascending."""

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] states after n nodes -> f32[n, L, M]: of head l, the token l + 2 places ahead."""

    def whole(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""


class IndependentHeads:
    """Trees of what heads propose: the `size` likeliest nodes, no path less likely than `min_p`.

    tree  another shape; `size` and `min_p` have no effect then.
    """

    def __init__(self, heads: HeadsByDepth, *, size: int, min_p: float, tree: TreePolicy | None) -> None:
        self._heads = heads
        self._size = size
        self._min_p = min_p
        self._tree = tree
        self.policy: TreePolicy = Chain(length=heads.num_drafted) if tree is None else tree
        branches = tree is None or tree.width > 1
        paced: Paced = "shared" if tree is None else paced_by(tree)
        self.traits = replace(
            traits_of(self.policy, own=False), branches=branches, paced=paced, whole_calls=True
        )

    def start(self, prompt: Prompt) -> HeadsState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return HeadsState()

    def propose(self, states: Sequence[HeadsState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row. logq: the heads' log-probabilities."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        if begun := begun_rows(states):
            grown = self._propose([states[row] for row in begun], [asks[row] for row in begun])
            for row, tree in zip(begun, grown, strict=True):
                trees[row] = tree
        return trees

    def _propose(self, states: Sequence[HeadsState], asks: Sequence[Ask]) -> list[TokenTree]:
        logits = self._heads.logits(stacked(states))
        reads_laws, has_edits = any(ask.law for ask in asks), any(ask.edit is not None for ask in asks)
        if self._is_fixed and not reads_laws and not has_edits:
            return [self._chain(logits[row], ask) for row, ask in enumerate(asks)]
        if self._tree is not None or reads_laws:
            return grow_trees(asks, self.policy, self._step(logits))
        return [
            likeliest(
                [ask.root],
                _at_depth(self._pairs(logits[row], ask)),
                size=min(self._size, ask.budget),
                depth=ask.depth,
                min_p=self._min_p,
            )
            for row, ask in enumerate(asks)
        ]

    def observe(self, states: Sequence[HeadsState], steps: Sequence[Step]) -> list[HeadsState]:
        """Keep the state behind the last kept node: the token after it is the next root."""
        return keep_last(states, steps)

    def stop(self, state: HeadsState) -> None:
        """There is nothing to give back."""

    def step(self, states: Sequence[HeadsState]) -> StepFunction:
        """The heads of these rows as a step function (see `trees.grow`): a node's depth names its head."""
        return self._step(self._heads.logits(stacked(states)))

    def expected(self, states: Sequence[HeadsState], asks: Sequence[Ask]) -> list[list[Pairs]]:
        """For each row and depth, the likeliest tokens with their probabilities, the same below any node.

        [] for a row whose prompt has not been read.
        """
        pairs: list[list[Pairs]] = [[] for _ in asks]
        if begun := begun_rows(states):
            logits = self._heads.logits(stacked([states[row] for row in begun]))
            for row, ahead in zip(begun, logits, strict=True):
                pairs[row] = self._pairs(ahead, asks[row])
        return pairs

    def expected_by_depth(self, state: HeadsState, ask: Ask) -> list[Pairs]:
        """`expected` of one row."""
        return self.expected([state], [ask])[0]

    def _chain(self, logits: NDArray[np.float32], ask: Ask) -> TokenTree:
        """The best token of every head: what the growth loop makes of a chain by levels. logits f32[L, M]."""
        assert isinstance(self._tree, Chain)
        ahead, ids = logits[: min(self._tree.length, ask.budget, ask.depth)], self._heads.token_ids
        if ask.sampling.temperature == 0:
            best = self._best(ahead)
        else:
            places = range(ask.position + 1, ask.position + 1 + len(ahead))
            laws = [point_law(one, ask.sampling, at, 1, ids) for one, at in zip(ahead, places, strict=True)]
            best = np.array([drawn[0] for drawn, _ in laws], np.int64)
        return TokenTree.chain(ask.root, (best if ids is None else ids[best]).tolist())

    def _best(self, logits: NDArray[np.float32]) -> NDArray[np.int64]:
        """[L, M] -> [L]: what a greedy chain takes of every head."""
        return logits.argmax(axis=1)

    @property
    def _is_fixed(self) -> bool:
        """Whether all drafts are chains of one length."""
        return isinstance(self._tree, Chain) and not self._tree.traits.reads_logq

    def _pairs(self, logits: NDArray[np.float32], ask: Ask) -> list[Pairs]:
        """By depth, the likeliest tokens. logits f32[L, M]: the heads' of one row."""
        ids, pairs = self._heads.token_ids, []
        if ask.sampling.temperature == 0:
            return _likely(logits[: ask.depth], ids)
        for depth, ahead in enumerate(logits[: ask.depth]):
            best, law = point_law(ahead, ask.sampling, ask.position + depth + 1, RANKS, ids)
            tokens = best if ids is None else ids[best]
            pairs.append(list(zip(tokens.tolist(), law[best].tolist(), strict=True)))
        return pairs

    def _step(self, logits: NDArray[np.float32]) -> StepFunction:
        def step(
            rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
        ) -> list[NDArray[np.float32] | None]:
            return [
                self._heads.whole(logits[row][depths]) if max(depths) < logits.shape[1] else None
                for row, depths in zip(rows, _depths(trees, nodes), strict=True)
            ]

        return step


def check_shape(method: str, size: int, min_p: float) -> None:
    """OutpaceError for a tree that nobody can grow; before heads are read, which takes a while."""
    sizes(method, size=size)
    if not 0 <= min_p <= 1:
        raise OutpaceError(f"{method} has min_p={min_p}, accepted are 0 to 1")


def _at_depth(pairs: list[Pairs]) -> After:
    """What may follow a node; it depends on the depth alone."""
    return lambda text, depth: pairs[depth] if depth < len(pairs) else ()


def _likely(logits: NDArray[np.float32], ids: NDArray[np.integer] | None) -> list[Pairs]:
    """By head, its RANKS likeliest tokens above FLOOR, best first. logits f32[L, M]."""
    laws = np.exp(logits - logits.max(axis=1, keepdims=True))
    laws /= laws.sum(axis=1, keepdims=True)
    pairs = []
    for law in laws:
        some = np.flatnonzero(law > FLOOR)  # a sort of these few instead of a partition of all
        best = some[np.argsort(-law[some], kind="stable")[:RANKS]]
        tokens = best if ids is None else ids[best]
        pairs.append(list(zip(tokens.tolist(), law[best].tolist(), strict=True)))
    return pairs


def _depths(trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]) -> list[list[int]]:
    return [[tree.shape.depths[node] for node in some] for tree, some in zip(trees, nodes, strict=True)]
