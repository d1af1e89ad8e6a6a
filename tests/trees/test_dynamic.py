"""EAGLE-2 and OPT-Tree against the papers' procedures written out, and against the best of all trees."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.trees.dynamic import Dynamic
from outpace.trees.opt_tree import OptTree
from tests.trees.growing import ROOT, Paths, grow, softmax, tokens_to

VOCAB_SIZE = 5
Path = tuple[int, ...]


def nodes_of(tree: TokenTree) -> set[Path]:
    return {tuple(tokens_to(tree, node)[1:]) for node in range(1, tree.num_nodes)}


def weight(paths: Paths, path: Path) -> float:
    """The product of the draft's probabilities on a path."""
    steps = (softmax(paths.after([ROOT, *path[:i]]))[path[i]] for i in range(len(path)))
    return math.prod(float(p) for p in steps)


def heaviest(paths: Paths, among: set[Path], count: int) -> list[Path]:
    return sorted(among, key=lambda path: -weight(paths, path))[:count]


def children(paths: Paths, path: Path, k: int) -> set[Path]:
    return {(*path, int(t)) for t in np.argsort(-paths.after([ROOT, *path]), kind="stable")[:k]}


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 3))
def test_the_best_tree_of_all_if_nothing_bounds_a_level(seed: int, size: int, depth: int) -> None:
    paths = Paths(VOCAB_SIZE, seed=seed)
    every = {p for d in range(1, depth + 1) for p in itertools.product(range(VOCAB_SIZE), repeat=d)}
    best = set(heaviest(paths, every, size))
    assert nodes_of(grow(Dynamic(size=size, k=5, depth=depth), paths)) == best
    assert nodes_of(grow(OptTree(size=size, k=5, depth=depth, gain=0), paths)) == best


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 4), st.integers(1, 5), st.integers(1, 25))
def test_eagle_2_as_the_paper_has_it(seed: int, size: int, k: int, depth: int, budget: int) -> None:
    paths = Paths(VOCAB_SIZE, seed=seed)
    grown: set[Path] = set()
    layer: list[Path] = [()]
    for _ in range(depth):
        new = set().union(*(children(paths, path, k) for path in layer))
        grown |= new
        layer = heaviest(paths, new, k)
    expected = set(heaviest(paths, grown, min(size, budget)))
    assert nodes_of(grow(Dynamic(size=size, k=k, depth=depth), paths, budget=budget)) == expected


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.floats(0, 0.6), st.integers(1, 5))
def test_opt_tree_as_the_paper_has_it(seed: int, size: int, k: int, gain: float, depth: int) -> None:
    paths = Paths(VOCAB_SIZE, seed=seed)
    grown: set[Path] = set()
    layer: list[Path] = [()]
    expected = 0.0
    for _ in range(depth):
        new = set().union(*(children(paths, path, k) for path in layer))
        grown |= new
        layer = heaviest(paths, new, size)
        reached = sum(weight(paths, path) for path in heaviest(paths, grown, size))
        if reached - expected < gain:
            break
        expected = reached
    tree = grow(OptTree(size=size, k=k, gain=gain, depth=depth), paths)
    assert nodes_of(tree) == set(heaviest(paths, grown, size))


def test_nodes_without_hope_are_not_scored() -> None:
    paths = Paths(VOCAB_SIZE, seed=2, spread=4.0)
    grow(Dynamic(size=3, k=5, depth=4), paths)
    assert all(len(nodes) <= 3 for nodes in paths.calls)


@pytest.mark.parametrize("policy", [Dynamic(size=9), OptTree(size=9)], ids=["dynamic", "opt_tree"])
@pytest.mark.parametrize("draw", ["iid", "without_replacement", "hub"])
def test_whatever_the_size_the_draw_is_a_point(policy: Dynamic | OptTree, draw: str) -> None:
    """A draw that stays valid only if nothing had to be pruned would itself depend on what was drawn."""
    for budget in (2, 9, 63):
        sampling = Sampling(temperature=1.0, top_k=2)
        tree = grow(policy, Paths(VOCAB_SIZE), sampling, draw=draw, budget=budget, depth=2)
        assert tree.num_nodes > 1 and tree.draw == "point"


def test_in_known_noise_nodes_are_weighed_by_it() -> None:
    """At a temperature, the drafted path is the one that the noise picks, not the likeliest one."""
    paths = Paths(VOCAB_SIZE, seed=1, spread=0.3)
    firsts = set()
    for seed in range(20):
        tree = grow(Dynamic(size=1), paths, Sampling(temperature=1.0, seed=seed), law=False)
        firsts.add(tree.token_list[1])
    assert len(firsts) > 2


@pytest.mark.parametrize("options", [{"size": 0}, {"k": 0}, {"depth": 0}, {"k": 65537}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are whole numbers from 1 to 65536"):
        Dynamic(**options)
    with pytest.raises(OutpaceError, match="accepted are whole numbers from 1 to 65536"):
        OptTree(**options)
    with pytest.raises(OutpaceError, match="gain=-1"):
        OptTree(gain=-1)
