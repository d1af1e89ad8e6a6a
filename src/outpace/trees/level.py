"""A level's candidates, for policies that judge every node: the likeliest few, and what is known of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from outpace.core.steps import Candidates
from outpace.core.tree import TokenTree
from outpace.heads.c2t import entropy
from outpace.trees.dynamic import joint
from outpace.trees.template import best

Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Level:
    """n candidates of one depth, in the order of their draw.

    parents, tokens  i[n]: the nodes that they would hang on, and what they say.
    joint            f[n]: log-probability of the whole path. own: of the token after its parent.
    entropy          f[n]: of the law that each was drawn from, in nats.
    depth            i[n], 1 below the root.
    """

    parents: NDArray[np.integer]
    tokens: NDArray[np.integer]
    joint: Floats
    own: Floats
    entropy: Floats
    depth: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.tokens)


def last_level(tree: TokenTree, depth: int) -> list[int]:
    """The deepest nodes, to be expanded; none where the tree has `depth` levels."""
    height = tree.shape.height
    return [] if height >= depth else [node for node, at in enumerate(tree.shape.depths) if at == height]


def level_of(tree: TokenTree, candidates: Candidates, k: int) -> tuple[Level, NDArray[np.integer]]:
    """The `k` of the highest joint probability among the children of all nodes, and their places."""
    above = joint(tree)
    paths = candidates.logq + np.array([above[node] for node in candidates.nodes], np.float32)[:, None]
    places = np.sort(best(paths.ravel().tolist(), k))
    places = places[paths.ravel()[places] > -np.inf]
    rows = places // paths.shape[1]
    level = Level(
        np.array(candidates.nodes)[rows],
        candidates.tokens.ravel()[places],
        paths.ravel()[places],
        candidates.logq.ravel()[places],
        np.array([entropy(law) for law in candidates.laws])[rows],
        np.full(len(places), tree.shape.height + 1),
    )
    return level, places


def hang(tree: TokenTree, candidates: Candidates, places: NDArray[np.integer]) -> TokenTree:
    """The tree with the candidates at these places, in a "point" draw; the same tree where there are none."""
    if not len(places):
        return tree
    kept = np.full(candidates.logq.shape, -np.inf, np.float32)
    kept.ravel()[places] = candidates.logq.ravel()[places]
    some = replace(candidates, logq=kept, draw="point")
    return some.hang(tree, [candidates.tokens.shape[-1]] * len(candidates.nodes))
