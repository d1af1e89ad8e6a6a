"""A drafter's model for tests of trees: fixed random logits after every path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from outpace.core.contracts import TreePolicy
from outpace.core.sampling import Sampling
from outpace.core.steps import Ask
from outpace.core.tree import TokenTree
from outpace.trees.grow import grow_trees

ROOT, POSITION = 1, 7


class Paths:
    """Normal logits f32[V] after every path of tokens, a function of path and seed alone."""

    def __init__(self, vocab_size: int, *, seed: int = 0, spread: float = 1.5) -> None:
        self.vocab_size, self.seed, self.spread = vocab_size, seed, spread
        self.calls: list[list[int]] = []

    def after(self, path: Sequence[int]) -> np.ndarray:
        """The logits of the token after a path, which begins with the root's token."""
        rng = np.random.default_rng([self.seed, *path])
        return rng.normal(scale=self.spread, size=self.vocab_size).astype(np.float32)

    def step(
        self, rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> list[np.ndarray | None]:
        """A step function."""
        self.calls += [list(wanted) for wanted in nodes]
        return [
            np.stack([self.after(tokens_to(tree, node)) for node in wanted])
            for tree, wanted in zip(trees, nodes, strict=True)
        ]


def tokens_to(tree: TokenTree, node: int) -> list[int]:
    """The tokens from the root to a node."""
    return [tree.token_list[i] for i in tree.path_to(node)]


def grow(policy: TreePolicy, paths: Paths, sampling: Sampling | None = None, **asked: Any) -> TokenTree:
    """One tree; `asked` are fields of the Ask."""
    fields: dict[str, Any] = {"budget": 63, "depth": 20} | asked
    ask = Ask(ROOT, POSITION, sampling or Sampling(), **fields)
    return grow_trees([ask], policy, paths.step)[0]


def softmax(logits: np.ndarray) -> np.ndarray:
    """f64[V]."""
    weight = np.exp(logits.astype(np.float64) - logits.max())
    return weight / weight.sum()
