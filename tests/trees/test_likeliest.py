"""The likeliest paths against the best of all sets of paths that are closed under parents."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.tree import TokenTree
from outpace.trees.likeliest import likeliest

VOCAB_SIZE = 3
TEXT = [2, 1]
Path = tuple[int, ...]


class Laws:
    """What may follow each text, by chance: some tokens never, some laws empty."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.asked: list[tuple[list[int], int]] = []

    def __call__(self, text: list[int], depth: int) -> Iterable[tuple[int, float]]:
        self.asked.append((text, depth))
        return self.of(text).items()

    def of(self, text: Iterable[int]) -> dict[int, float]:
        rng = np.random.default_rng([self.seed, *text])
        weights = rng.random(VOCAB_SIZE) * (rng.random(VOCAB_SIZE) < 0.8)
        return {t: float(w / VOCAB_SIZE) for t, w in enumerate(weights)}

    def weight(self, path: Path) -> float:
        return math.prod(self.of([*TEXT, *path[:i]])[path[i]] for i in range(len(path)))


def paths_of(tree: TokenTree) -> list[Path]:
    return [tuple(tree.token_list[i] for i in tree.path_to(node)[1:]) for node in range(1, tree.num_nodes)]


@given(
    st.integers(0, 10**6), st.integers(0, 12), st.integers(0, 3), st.sampled_from([0.0, 1e-3, 0.02, 0.1, 1.0])
)
def test_the_best_of_all_sets(seed: int, size: int, depth: int, min_p: float) -> None:
    laws = Laws(seed)
    tree = likeliest(TEXT, laws, size=size, depth=depth, min_p=min_p)
    every = {p for d in range(1, depth + 1) for p in itertools.product(range(VOCAB_SIZE), repeat=d)}
    likely = {p: w for p in every if (w := laws.weight(p)) > 0 and w >= min_p}
    # A path is never likelier than its beginning, so the heaviest nodes are a closed set by themselves.
    best = sorted(likely, key=lambda path: -likely[path])[:size]
    found = paths_of(tree)
    assert tree.token_list[0] == TEXT[-1] and tree.draw == "point"
    assert len(set(found)) == len(found) and set(found) == set(best)
    weights = [likely[path] for path in found]
    assert weights == sorted(weights, reverse=True), "best first"
    assert tree.logq is not None
    after = [laws.of([*TEXT, *path[:-1]])[path[-1]] for path in found]
    np.testing.assert_allclose(np.exp(tree.logq[1:]), after, rtol=1e-5)


@given(st.integers(0, 10**6), st.integers(0, 9), st.integers(0, 3))
def test_it_asks_with_the_text_up_to_the_node(seed: int, size: int, depth: int) -> None:
    laws = Laws(seed)
    tree = likeliest(TEXT, laws, size=size, depth=depth, min_p=0.0)
    allowed = {(): 0} | {path: len(path) for path in paths_of(tree) if len(path) < depth}
    asked = {tuple(text[len(TEXT) :]): at for text, at in laws.asked}
    assert all(text[: len(TEXT)] == TEXT for text, _ in laws.asked)
    assert len(laws.asked) == len(asked) and asked.items() <= allowed.items()
    assert TEXT == [2, 1], "the caller's own"


def test_worked_example() -> None:
    """0 or 1 at first, as likely as 0.6 and 0.3; 0 is followed by 2, 1 by 0, with 0.9 and 1."""
    after = {0: [(0, 0.6), (1, 0.3)], 1: [(2, 0.9)]}

    def laws(text: list[int], depth: int) -> list[tuple[int, float]]:
        return [(0, 1.0)] if text[-1] == 1 and depth == 1 else after.get(depth, [])

    tree = likeliest([5], laws, size=9, depth=9, min_p=0.3)
    assert tree.token_list == [5, 0, 2, 1, 0] and tree.shape.parent_list == [-1, 0, 1, 0, 3]
    assert tree.logq is not None
    assert tree.logq[1:].tolist() == pytest.approx([math.log(p) for p in (0.6, 0.9, 0.3, 1.0)], rel=1e-6)
    assert likeliest([5], laws, size=9, depth=1, min_p=0.31).token_list == [5, 0]
    assert likeliest([5], laws, size=2, depth=9, min_p=0.0).token_list == [5, 0, 2]
    assert likeliest([5], laws, size=0, depth=9, min_p=0.0).token_list == [5]
