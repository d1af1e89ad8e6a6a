"""Sequoia: the best fixed shape for what each rank is worth and what a call costs.

Chen et al. 2024, "Sequoia: Scalable, Robust, and Hardware-aware Speculative Decoding", arXiv:2402.12374. Let
a_b be the chance that the b-th child of an accepted node is accepted. A dynamic programme finds the most
tokens to expect of n nodes on l levels, and the tree that gives them:

    V[l, n]     n nodes with the root, l levels below it:  max over b of T[l, n, b]
    T[l, n, b]  the same with b children of the root:      max over m of T[l, n - m, b - 1] + a_b V[l - 1, m]

Size and depth are those of the most tokens per second: V[l, n] / (t(n) + l t_draft), t(n) as measured.

The draw stays valid: the shape is computed once and looks at no token.

Deviations. a is given, not measured, and so is t_draft, as a share of a call of one token. A tree that has to
be smaller loses the nodes of the lowest chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from outpace.core.errors import OutpaceError
from outpace.core.options import checked, within
from outpace.core.steps import Candidates
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.pricing.costs import CallCosts
from outpace.trees.template import Ranks, Template

CONTEXT = 256  # tokens before the tree, for which calls are priced


class Sequoia:
    """At most `size` nodes on at most `depth` levels: the shape that pays best.

    acceptance  a_1, a_2, ...: the chance of the first, second, ... child, at most 1 in all.
    draft_cost  what a level costs to draft, in calls of the target for one token.
    size        the most drafted nodes; with auto off, the exact number.
    depth       the most levels.
    auto        whether fewer may do: choose by `costs`.
    """

    traits = Traits(reads_logq=False)

    @checked
    def __init__(
        self,
        *,
        size: int = 32,
        depth: int = 8,
        acceptance: str = "0.6,0.14,0.07,0.04,0.03,0.02",
        draft_cost: float = 0.3,
        auto: bool = True,
        costs: Callable[[], CallCosts] | None = None,
    ) -> None:
        chances = _chances(acceptance)
        if not (1 <= size <= 512 and 1 <= depth <= 64):
            raise OutpaceError(
                f"sequoia has size={size} and depth={depth}, accepted are 1 to 512 and 1 to 64"
            )
        within("sequoia", 0, draft_cost=draft_cost)
        if auto and costs is None:
            raise OutpaceError("sequoia has auto=true and no costs of a target, accepted is auto=false")
        self._chances = chances[:size]  # no node has more children than there are nodes
        self._size, self._depth, self._draft_cost = size, depth, draft_cost
        self._costs = costs if auto else None
        # Prices are of calls: whether drafts pay, with their own time, is for `Pace` to find out.
        self.traits = replace(self.traits, paced="always") if auto else self.traits
        self.width = len(self._chances)

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The nodes of the last level that have children in the shape."""
        return self._shape.expand(tree)

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """As many children as the shape has."""
        return self._shape.grow(tree, candidates)

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The nodes of the highest chance."""
        return self._shape.prune(tree, budget)

    @cached_property
    def _shape(self) -> Template:
        # Not before it is needed: costs are measured by whoever asks for them first.
        programme = Programme(self._chances, self._size + 1, self._depth)
        depth, nodes = self._depth, int(np.isfinite(programme.tokens[-1]).nonzero()[0][-1])
        if self._costs is not None:
            seconds = self._costs().curve(self._size + 1, CONTEXT)
            price = seconds + self._draft_cost * seconds[0] * np.arange(self._depth + 1)[:, None]
            # Not without a draft: a tree policy is asked for trees.
            pays = (programme.tokens[:, 1:] / price)[1:, 1:]
            level, size = np.unravel_index(np.argmax(pays), pays.shape)
            depth, nodes = int(level) + 1, int(size) + 2
        shape = Template(dict(programme.shape(depth, nodes)))
        assert shape.width <= self.width
        return shape


class Programme:
    """The dynamic programme, for trees of up to `nodes` nodes (the root is one) on up to `depth` levels.

    tokens  f64[depth + 1, nodes + 1]: V[l, n], the tokens to expect of the best tree of n nodes on at most l
            levels, the one more included; -inf where there is no such tree.
    """

    def __init__(self, chances: Sequence[float], nodes: int, depth: int) -> None:
        self._chances = chances
        self.tokens = np.full((depth + 1, nodes + 1), -np.inf)
        self.tokens[:, 1] = 1.0
        # In the best tree: the number of the root's children, and of nodes in the last child's subtree.
        self._fan = np.zeros((depth + 1, nodes + 1), np.int64)
        self._last = np.zeros((depth + 1, len(chances) + 1, nodes + 1), np.int64)
        for level in range(1, depth + 1):
            below = self.tokens[level - 1]
            with_children = np.full(nodes + 1, -np.inf)
            with_children[1] = 1.0
            for fan, chance in enumerate(chances, start=1):
                fewer, with_children = with_children, np.full(nodes + 1, -np.inf)
                for n in range(fan + 1, nodes + 1):
                    worth = fewer[n - 1 : 0 : -1] + chance * below[1:n]
                    self._last[level, fan, n] = 1 + np.argmax(worth)
                    with_children[n] = worth.max()
                better = with_children > self.tokens[level]
                self.tokens[level][better] = with_children[better]
                self._fan[level][better] = fan

    def shape(self, depth: int, nodes: int) -> Iterator[tuple[Ranks, float]]:
        """The nodes of the best tree below its root, each with its chance to be accepted."""
        return self._below((), 1.0, depth, nodes)

    def _below(self, ranks: Ranks, chance: float, depth: int, nodes: int) -> Iterator[tuple[Ranks, float]]:
        for fan in range(int(self._fan[depth, nodes]), 0, -1):
            size = int(self._last[depth, fan, nodes])
            child, reached = (*ranks, fan - 1), chance * self._chances[fan - 1]
            yield child, reached
            yield from self._below(child, reached, depth - 1, size)
            nodes -= size


def _chances(text: str) -> list[float]:
    try:
        chances = [float(part) for part in text.split(",")]
    except ValueError:
        chances = []
    if not chances or not (min(chances) > 0 and sum(chances) <= 1 + 1e-9):
        raise OutpaceError(
            f"sequoia has acceptance={text!r}, accepted are numbers > 0 with commas between them, at most 1 "
            "in all"
        )
    return chances
