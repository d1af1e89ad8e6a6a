"""Trees of blocks: drafts of heads that name all levels at once, each maybe by the tokens before it.

markov_heads and dflash share this. One pass makes a block for each row. Then tokens are put in order along
each path, and the tree takes the likeliest paths, best first; of positions that know nothing of one another
these are the likeliest products (DDTree, 2026, arXiv:2604.12989). Where the rule reads laws, or somebody
names a `tree`, the growth loop draws from the whole law of each node. With sampling, drafts add the target's
noise to their logits and so draft the very sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import sizes
from outpace.core.steps import Ask
from outpace.core.traits import Paced
from outpace.core.tree import TokenTree
from outpace.trees.chain import Chain
from outpace.trees.grow import StepFunction, grow_trees, paced_by, point_law, traits_of
from outpace.trees.likeliest import Offer, best_first

RANKS = 8  # children of a node at most
FLOOR = 0.01  # smaller probabilities are of no use to others,
TINY = 1e-12  # nor these to anybody
Floats = NDArray[np.float32]


class Block(Protocol):
    """What is drafted behind a root, on its first `levels`. An order: what a level knows of a path to it."""

    levels: int

    def follow(self, order: Any, token: int, level: int) -> Any:
        """The order behind a token of this depth, from that behind the one above it; None above the root."""

    def law(self, level: int, order: Any) -> Floats:
        """Logits f32[M] behind a token of this depth."""

    def likely(self, level: int, order: Any) -> tuple[NDArray[np.int64], Floats]:
        """(places i64[C] among the drafted tokens, their logits f32[C]): those that may be likely there."""


class Blocks(Protocol):
    """Heads that make blocks: of at most `length` levels, of these tokens (None: of all)."""

    length: int

    @property
    def token_ids(self) -> NDArray[np.integer] | None:
        """[M], ascending."""

    def whole(self, logits: Floats) -> Floats:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""


class BlockDrafter(ABC):
    """Trees of the `size` likeliest nodes of a block, no path less likely than `min_p`.

    paced  see `Traits`. tree: another shape; `size` and `min_p` have no effect then, nor has `paced`.
    """

    def __init__(
        self,
        heads: Blocks,
        *,
        size: int,
        min_p: float,
        tree: TreePolicy | None,
        paced: Paced = "shared",
    ) -> None:
        self._heads = heads
        self._size, self._min_p, self._tree = size, min_p, tree
        self.policy: TreePolicy = Chain(length=heads.length) if tree is None else tree
        self.traits = replace(
            traits_of(self.policy, own=False),
            branches=tree is None or tree.width > 1,
            paced=paced if tree is None else paced_by(tree),
            whole_calls=True,
        )

    def propose(self, states: Sequence[Any], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row, root-only where it cannot draft. logq: log-probabilities after the parents."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        able = [
            row
            for row, (state, ask) in enumerate(zip(states, asks, strict=True))
            if min(ask.budget, ask.depth) > 0 and self._is_able(state)
        ]
        some = [asks[row] for row in able]
        shaped = self._tree is not None or any(ask.law or ask.edit is not None for ask in some)
        # No path of a tree of the likeliest is longer than it has nodes.
        most = [ask.depth if shaped else min(ask.depth, ask.budget, self._size) for ask in some]
        blocks = self._made([states[row] for row in able], some, most)
        rows = [row for row, block in zip(able, blocks, strict=True) if block is not None]
        pairs = [(block, asks[row]) for row, block in zip(able, blocks, strict=True) if block is not None]
        if shaped:
            step = self._step([block for block, _ in pairs])
            grown = grow_trees([ask for _, ask in pairs], self.policy, step)
        else:
            grown = [self._likeliest(*pair) for pair in pairs]
        for row, tree in zip(rows, grown, strict=True):
            trees[row] = tree
        return trees

    def expected_by_path(
        self, state: Any, ask: Ask
    ) -> Callable[[Sequence[int]], Sequence[tuple[int, float]]]:
        """See `ByPath`. Nothing is expected of a row that cannot draft, as before the prompt's own call."""
        [block] = self._made([state], [ask], [ask.depth]) if self._is_able(state) else [None]
        if block is None:
            return lambda path: ()
        orders: dict[tuple[int, ...], Any] = {}

        def after(path: Sequence[int]) -> Sequence[tuple[int, float]]:
            level, path = len(path), tuple(path)
            if level >= block.levels:
                return ()
            above = orders[path[:-1]] if path else None
            order = orders[path] = block.follow(above, path[-1] if path else ask.root, level)
            return self._pairs(block, level, order, ask, FLOOR)

        return after

    @abstractmethod
    def _is_able(self, state: Any) -> bool:
        """Whether a row can draft; what the drafter has to do before is done here."""

    @abstractmethod
    def _blocks(
        self, states: Sequence[Any], asks: Sequence[Ask], levels: Sequence[int]
    ) -> Sequence[Block | None]:
        """The blocks of rows that are able, of as many levels or more; None for one that is not after all."""

    def _made(
        self, states: Sequence[Any], asks: Sequence[Ask], most: Sequence[int]
    ) -> Sequence[Block | None]:
        levels = [max(1, min(one, self._heads.length)) for one in most]
        return self._blocks(states, asks, levels) if states else []

    def _likeliest(self, block: Block, ask: Ask) -> TokenTree:
        """The likeliest paths of one block. A node's place is the order that its parent stands for."""

        def children(node: int, level: int, taken: Offer[Any]) -> list[Offer[Any]]:
            negative, _, _, token, above = taken
            order = block.follow(above, token, level)
            pairs = self._pairs(block, level, order, ask, self._min_p / -negative)
            return [(negative * q, 0, node, child, order) for child, q in pairs]

        size, depth = min(self._size, ask.budget), min(block.levels, ask.depth)
        return best_first(ask.root, None, children, size=size, depth=depth).tree()

    def _pairs(self, block: Block, level: int, order: Any, ask: Ask, least: float) -> list[tuple[int, float]]:
        """At most RANKS tokens after a node of this level, none of a smaller probability than `least`."""
        some, logits = block.likely(level, order)
        tokens = some if self._heads.token_ids is None else self._heads.token_ids[some]
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
        ) -> list[Floats | None]:
            return [
                self._laws(blocks[row], tree, some)
                for row, tree, some in zip(rows, trees, nodes, strict=True)
            ]

        return step

    def _laws(self, block: Block, tree: TokenTree, nodes: Sequence[int]) -> Floats | None:
        """f32[F, V] behind these nodes; None where the block has no such position."""
        if max(tree.shape.depths[node] for node in nodes) >= block.levels:
            return None
        laws = []
        for node in nodes:
            order = None
            for level, one in enumerate(tree.path_to(node)):
                order = block.follow(order, tree.token_list[one], level)
            laws.append(block.law(tree.shape.depths[node], order))
        return self._heads.whole(np.stack(laws))


def check_options(name: str, size: int, min_p: float) -> None:
    """An OutpaceError for values out of range."""
    sizes(name, size=size)
    if not 0 <= min_p <= 1:
        raise OutpaceError(f"{name} has min_p={min_p}, accepted are 0 to 1")
