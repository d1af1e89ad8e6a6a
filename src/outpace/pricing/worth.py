"""Which nodes are worth their place in a tree, by their chance to be kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.traits import Paced
from outpace.pricing.costs import CallCosts, convex

Floats = NDArray[np.floating]

CONTEXT = 256  # tokens before the tree, for which calls are priced


class Worth(Protocol):
    """What a node has to have, and a level."""

    @property
    def paced(self) -> Paced:
        """When drafters are paced whose trees it decides about (see `Traits`)."""

    def passes(self, chance: Floats, nodes: int, expected: float) -> NDArray[np.bool_]:
        """bool[n]: which of n nodes are worth their place in a tree of `nodes`, the root included.

        expected  the tokens that its call is expected to give without them.
        """

    def goes_on(self, gained: float, expected: float) -> bool:
        """Whether to draft another level, after one that is expected to give `gained` of all tokens."""


class AtLeast(NamedTuple):
    """A chance of `beta`, whatever the tree is like."""

    beta: float

    @property
    def paced(self) -> Paced:
        """Never: somebody has named the chance."""
        return "never"

    def passes(self, chance: Floats, nodes: int, expected: float) -> NDArray[np.bool_]:
        """Each for itself."""
        return chance >= self.beta

    def goes_on(self, gained: float, expected: float) -> bool:
        """Always."""
        return True


class Priced:
    """More tokens than time: a node has to add a larger share to the tokens than to the time of the call.

    costs       of calls, asked for when the first tree is grown.
    draft_cost  what a level costs to draft, in calls of the target for one token.
    most_nodes  of a tree.
    """

    def __init__(self, costs: Callable[[], CallCosts], draft_cost: float, most_nodes: int) -> None:
        self._costs = costs
        self._draft_cost = draft_cost
        self._most_nodes = most_nodes

    @property
    def paced(self) -> Paced:
        """Always: prices are of calls. Whether drafts pay, with their own time, is for `Pace` to find out."""
        return "always"

    def passes(self, chance: Floats, nodes: int, expected: float) -> NDArray[np.bool_]:
        """The likeliest first, each at the price that those before it leave."""
        passed = np.zeros(len(chance), np.bool_)
        for place in np.argsort(-chance, kind="stable").tolist():
            if chance[place] <= expected * self._shares[min(nodes, len(self._shares)) - 1]:
                break
            passed[place] = True
            nodes, expected = nodes + 1, expected + float(chance[place])
        return passed

    def goes_on(self, gained: float, expected: float) -> bool:
        """While a level as good as the last one would be worth its call of the drafter."""
        return gained > expected * self._draft_cost

    @cached_property
    def _shares(self) -> list[float]:
        """Of n = 1, 2, ... nodes: what another adds to the time of their call, as a share of it."""
        curve = np.array(convex(self._costs().curve(1 + self._most_nodes, CONTEXT).tolist()))
        shares: list[float] = (np.diff(curve) / curve[:-1]).tolist()
        return shares
