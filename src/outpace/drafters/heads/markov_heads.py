"""Markov heads: one pass over the target's states proposes a block, whose tokens know those before them.

After DFlash (2026, arXiv:2602.06036: all positions in one pass) and DSpark (DeepSeek 2026: a low-rank Markov
head between them). What is computed: `heads/markov_heads.py`. Trained by `outpace train markov_heads`.

    observe   the call that verified the last draft has the states at every tap behind the last kept node
    propose   one pass from these and the root; then tokens are put in order along each path, by products of
              low rank: the tree takes the likeliest paths, best first

Where the rule reads laws, or somebody names a `tree`, the growth loop draws from the whole law of each node.
With sampling, drafts add the target's noise to their logits and so draft the very sample.

Deviation. The layer before the positions reads the states of one token, where DFlash attends to those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Prompt
from outpace.core.contracts import Embedding, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, sizes
from outpace.core.steps import Ask, Step
from outpace.core.traits import Paced
from outpace.core.tree import TokenTree
from outpace.heads.markov_heads import METHOD
from outpace.heads.markov_pass import Block, MarkovPass, embedding
from outpace.heads.packaged import heads_for
from outpace.trees.chain import Chain
from outpace.trees.grow import StepFunction, grow_trees, paced_by, point_law, traits_of
from outpace.trees.likeliest import Offer, best_first

RANKS = 8  # children of a node at most
FLOOR = 0.01  # smaller probabilities are of no use to others,
TINY = 1e-12  # nor these to anybody
Order = NDArray[np.float32]


class MarkovState:
    """A row: the states f32[T, D] that the root was chosen from; None before the prompt's own call."""

    __slots__ = ("states",)

    def __init__(self) -> None:
        self.states: NDArray[np.float32] | None = None


class MarkovHeads:
    """Trees of the `size` likeliest nodes of a block, no path less likely than `min_p`.

    path  folder of the heads; "auto" for those that `outpace prepare` has made for the model or, if there are
          none, those that come with the package for it.
    tree  another shape; `size` and `min_p` have no effect then.
    """

    @checked
    def __init__(
        self,
        target: Embedding,
        beside: Callable[[str], Path] | None = None,
        *,
        path: str = "auto",
        size: int = 6,
        min_p: float = 0.1,
        tree: TreePolicy | None = None,
    ) -> None:
        sizes("markov_heads", size=size)
        if not 0 <= min_p <= 1:
            raise OutpaceError(f"markov_heads has min_p={min_p}, accepted are 0 to 1")
        folder = heads_for(embedding(target), METHOD, beside) if path == "auto" else path
        self._pass = MarkovPass(target, folder)
        self._size, self._min_p, self._tree = size, min_p, tree
        self.policy: TreePolicy = Chain(length=self._pass.length) if tree is None else tree
        paced: Paced = "shared" if tree is None else paced_by(tree)
        self.traits = replace(
            traits_of(self.policy, own=False),
            branches=tree is None or tree.width > 1,
            paced=paced,
            whole_calls=True,
        )

    def start(self, prompt: Prompt) -> MarkovState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return MarkovState()

    def propose(self, states: Sequence[MarkovState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row. logq: log-probabilities after the parents."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        begun = [row for row, state in enumerate(states) if state.states is not None]
        if begun:
            some = [asks[row] for row in begun]
            blocks = self._blocks([states[row] for row in begun], some)
            if self._tree is not None or any(ask.law or ask.edit is not None for ask in some):
                grown = grow_trees(some, self.policy, self._step(blocks))
            else:
                grown = [self._likeliest(*pair) for pair in zip(blocks, some, strict=True)]
            for row, tree in zip(begun, grown, strict=True):
                trees[row] = tree
        return trees

    def observe(self, states: Sequence[MarkovState], steps: Sequence[Step]) -> list[MarkovState]:
        """Keep the states behind the last kept node: the token after it is the next root."""
        for state, step in zip(states, steps, strict=True):
            last = step.verdict.path[-1] if step.verdict.path else 0
            state.states = self._pass.states(step.scores, last)
        return list(states)

    def stop(self, state: MarkovState) -> None:
        """There is nothing to give back."""

    def expected_by_path(
        self, state: MarkovState, ask: Ask
    ) -> Callable[[Sequence[int]], Sequence[tuple[int, float]]]:
        """See `ByPath`. Nothing is expected before the prompt's own call."""
        if state.states is None:
            return lambda path: ()
        [block] = self._blocks([state], [ask])
        orders: dict[tuple[int, ...], Order] = {}

        def after(path: Sequence[int]) -> Sequence[tuple[int, float]]:
            level, path = len(path), tuple(path)
            if level >= self._pass.length:
                return ()
            above = orders[path[:-1]] if path else None
            order = orders[path] = self._pass.follow(above, path[-1] if path else ask.root)
            return self._pairs(block, level, order, ask, FLOOR)

        return after

    def _blocks(self, states: Sequence[MarkovState], asks: Sequence[Ask]) -> list[Block]:
        read = [state.states for state in states if state.states is not None]
        return self._pass(np.stack(read), [ask.root for ask in asks])

    def _likeliest(self, block: Block, ask: Ask) -> TokenTree:
        """The likeliest paths of one block. A node's place is m, the order behind it."""
        follow = self._pass.follow

        def children(node: int, level: int, taken: Offer[Order | None]) -> list[Offer[Order | None]]:
            negative, _, _, token, above = taken
            order = follow(above, token)
            pairs = self._pairs(block, level, order, ask, self._min_p / -negative)
            return [(negative * q, 0, node, child, order) for child, q in pairs]

        return best_first(
            ask.root,
            None,
            children,
            size=min(self._size, ask.budget),
            depth=min(self._pass.length, ask.depth),
        ).tree()

    def _pairs(
        self, block: Block, level: int, order: Order, ask: Ask, least: float
    ) -> list[tuple[int, float]]:
        """At most RANKS tokens after a node of this level, none of a smaller probability than `least`."""
        some, logits = block.likely(level, order)
        tokens = self._pass.token_ids[some]
        if ask.sampling.temperature == 0:  # as `point_law` has it, for few tokens at a time
            law = np.exp(logits - logits.max())
            law /= law.sum()
        else:
            _, law = point_law(logits, ask.sampling, ask.position + level + 1, 1, tokens)
        best = np.flatnonzero(law >= max(least, TINY))
        if len(best) > RANKS:
            best = best[np.argpartition(law[best], -RANKS)[-RANKS:]]
        return list(zip(tokens[best].tolist(), law[best].tolist(), strict=True))

    def _step(self, blocks: Sequence[Block]) -> StepFunction:
        def step(
            rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
        ) -> list[NDArray[np.float32] | None]:
            return [
                self._laws(blocks[row], tree, some)
                for row, tree, some in zip(rows, trees, nodes, strict=True)
            ]

        return step

    def _laws(self, block: Block, tree: TokenTree, nodes: Sequence[int]) -> NDArray[np.float32] | None:
        """f32[F, V] behind these nodes; None where the block has no such position."""
        if max(tree.shape.depths[node] for node in nodes) >= self._pass.length:
            return None
        laws = []
        for node in nodes:
            order = None
            for one in tree.path_to(node):
                order = self._pass.follow(order, tree.token_list[one])
            assert order is not None, "a path has its root"
            laws.append(block.law(tree.shape.depths[node], order))
        return self._pass.whole(np.stack(laws))
