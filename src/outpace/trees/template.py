"""A tree of ranks: the number of children of every node, whatever their tokens are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from outpace.core.steps import Candidates
from outpace.core.tree import TokenTree

Ranks = tuple[int, ...]
"""A node by its path: at every level the rank of the child, 0 being the first one drawn."""


class Template:
    """The fixed shape that `Static` and `Sequoia` grow; the draw stays valid because it looks at no token.

    values  nodes with what they are worth; a node needs its parent and its siblings of lower rank. The root
            is there anyway. A tree that has to be smaller loses the nodes of least worth.
    """

    def __init__(self, values: Mapping[Ranks, float]) -> None:
        self.values = {**values, (): float("inf")}
        self.counts: dict[Ranks, int] = dict.fromkeys(self.values, 0)
        for node in self.values:
            if node:
                assert node[:-1] in self.values, "a node without its parent"
                assert node[-1] == 0 or (*node[:-1], node[-1] - 1) in self.values, (
                    "a rank without the one before"
                )
                self.counts[node[:-1]] += 1
        self.width = max(self.counts.values())

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """The nodes of the last level that get children."""
        ranks, depths, height = ranks_of(tree), tree.shape.depths, tree.shape.height
        return [node for node, depth in enumerate(depths) if depth == height and self.counts[ranks[node]]]

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """As many children as the template has there."""
        ranks = ranks_of(tree)
        return candidates.hang(tree, [self.counts[ranks[node]] for node in candidates.nodes])

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """The `budget` nodes of most worth, as far as they are there."""
        if budget >= len(self.values) - 1:
            return tree
        # Chosen from the template, not from the tree: how many children a law had depends on what was drawn.
        kept = self._best(budget)
        return tree.prune([node for node, ranks in enumerate(ranks_of(tree)) if ranks in kept], blind=True)

    def _best(self, budget: int) -> set[Ranks]:
        # Worth no more than parent and elder siblings: what is left is a tree of first draws.
        bounds: dict[Ranks, float] = {}
        for node in sorted(self.values, key=lambda node: (len(node), node)):
            before = (node[:-1], *([(*node[:-1], node[-1] - 1)] if node[-1] else [])) if node else ()
            bounds[node] = min(self.values[node], *(bounds[one] for one in before)) if node else float("inf")
        nodes = list(bounds)
        return {nodes[place] for place in best(list(bounds.values()), budget + 1)}


def best(values: Sequence[float], count: int) -> list[int]:
    """The nodes of the highest values, best first; of equal ones parents come before their children."""
    return sorted(range(len(values)), key=lambda node: (-values[node], node))[:count]


def ranks_of(tree: TokenTree) -> list[Ranks]:
    """The path of ranks to every node."""
    ranks: list[Ranks] = [()]
    seen = [0] * tree.num_nodes
    for parent in tree.shape.parent_list[1:]:
        ranks.append((*ranks[parent], seen[parent]))
        seen[parent] += 1
    return ranks
