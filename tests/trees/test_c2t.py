"""C2T's tree against the paper's procedure written out, with classifiers of random weights."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.heads.c2t import C2TConfig, Classifier, entropy, features_of, read_c2t
from outpace.trees.c2t import C2T, PACKAGED, c2t
from outpace.trees.chain import Chain
from tests.trees.growing import ROOT, Paths, grow, softmax
from tests.trees.test_dynamic import children, nodes_of, weight

VOCAB_SIZE = 5
Path_ = tuple[int, ...]


def classifier(
    seed: int, *, features: tuple[str, ...] = ("joint", "entropy", "depth"), **config: Any
) -> Classifier:
    rng = np.random.default_rng(seed)
    about = C2TConfig(8, features, **config)
    return Classifier(about, {n: rng.normal(size=s).astype(np.float32) for n, s in about.shapes().items()})


def likes_joint(slope: float, middle: float) -> Classifier:
    """sigmoid(slope * (log P - log middle))."""
    tensors = {
        "hidden.weight": np.array([[-1.0, 0.0, 0.0]], np.float32),
        "hidden.bias": np.zeros(1, np.float32),
        "output.weight": np.array([[-slope]], np.float32),
        "output.bias": np.array([-slope * math.log(max(middle, 1e-9))], np.float32),
    }
    return Classifier(C2TConfig(1), tensors)


def confidence(one: Classifier, p: float, h: float, d: int) -> float:
    """F(x), a node at a time in double precision."""
    values = {"joint": max(math.log(p), -12.0), "entropy": h, "depth": float(d)}
    x = np.array([values[name] for name in one.config.features])
    t = {name: tensor.astype(np.float64) for name, tensor in one.tensors.items()}
    hidden = np.maximum(t["hidden.weight"] @ x + t["hidden.bias"], 0)
    return float(1 / (1 + np.exp(-(t["output.weight"][0] @ hidden + t["output.bias"][0]))))


def of_the_paper(paths: Paths, one: Classifier, beta: float, k: int, depth: int) -> set[Path_]:
    tree: set[Path_] = set()
    level: set[Path_] = {()}
    for d in range(1, depth + 1):
        found = set().union(*(children(paths, path, k) for path in level))
        first = sorted(found, key=lambda path: -weight(paths, path))[:k]
        level = set()
        for path in first:
            law = softmax(paths.after([ROOT, *path[:-1]]))
            h = -sum(float(p) * math.log(p) for p in law)
            if confidence(one, weight(paths, path), h, d) >= beta:
                level.add(path)
        if not level:
            break
        tree |= level
    return tree


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.floats(0.05, 0.95), st.integers(1, 5), st.integers(1, 5))
def test_c2t_as_the_paper_has_it(seed: int, beta: float, k: int, depth: int) -> None:
    paths, one = Paths(VOCAB_SIZE, seed=seed), classifier(seed)
    tree = grow(C2T(one, beta=beta, k=k, depth=depth), paths)
    assert nodes_of(tree) == of_the_paper(paths, one, beta, k, depth)
    assert tree.draw == "point"


@pytest.mark.parametrize("features", [("joint",), ("joint", "depth"), ("entropy", "depth")])
def test_a_classifier_reads_some_of_the_features(features: tuple[str, ...]) -> None:
    for seed in range(20):
        paths, one = Paths(VOCAB_SIZE, seed=seed), classifier(seed, features=features)
        tree = grow(C2T(one, beta=0.5, k=3, depth=4), paths)
        assert nodes_of(tree) == of_the_paper(paths, one, 0.5, 3, 4)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6))
def test_one_child_a_level_is_a_chain_that_ends_where_confidence_does(seed: int, beta: float) -> None:
    """With a classifier of the joint probability alone: where that falls below beta."""
    paths = Paths(VOCAB_SIZE, seed=seed, spread=4.0)
    tree = grow(C2T(likes_joint(1e3, beta), beta=0.5, k=1, depth=6), paths)
    whole = grow(Chain(length=6), paths)
    joints = np.cumprod(
        [
            weight(paths, tuple(whole.token_list[1 : i + 1]))
            / max(weight(paths, tuple(whole.token_list[1:i])), 1e-30)
            for i in range(1, 7)
        ]
    )
    expected = int((joints < beta).argmax()) if (joints < beta).any() else 6
    assert tree.shape.is_chain and tree.token_list == whole.token_list[: 1 + expected]


def test_within_a_budget_the_likeliest_stay() -> None:
    paths = Paths(VOCAB_SIZE, seed=4)
    free = grow(C2T(likes_joint(1e3, 0.02), beta=0.5, k=4, depth=3), paths)
    assert free.num_nodes > 6
    tree = grow(C2T(likes_joint(1e3, 0.02), beta=0.5, k=4, depth=3), paths, budget=5)
    best = sorted(nodes_of(free), key=lambda path: -weight(paths, path))[:5]
    assert nodes_of(tree) == set(best)


def test_in_known_noise_the_path_is_the_one_that_it_picks() -> None:
    paths = Paths(VOCAB_SIZE, seed=1, spread=0.3)
    policy = C2T(likes_joint(1e3, 0.0), beta=0.0, k=1, depth=1)
    firsts = {
        grow(policy, paths, Sampling(temperature=1.0, seed=s), law=False).token_list[1] for s in range(20)
    }
    assert len(firsts) > 2


def test_an_entropy_is_of_the_likeliest_thousand() -> None:
    law = np.random.default_rng(0).dirichlet(np.full(3000, 0.3))
    top = np.sort(law)[-1000:]
    assert entropy(law.astype(np.float32)) == pytest.approx(-(top * np.log(top)).sum(), abs=1e-4)
    assert entropy(np.eye(5)[2]) == 0.0
    assert entropy(np.full(8, 0.125)) == pytest.approx(math.log(8))


@pytest.mark.parametrize("options", [{"k": 0}, {"depth": 0}])
def test_options_out_of_range(options: dict[str, int]) -> None:
    with pytest.raises(OutpaceError, match="accepted are whole numbers from 1 to 65536"):
        C2T(classifier(0), **options)
    with pytest.raises(OutpaceError, match=r"beta=1\.5"):
        C2T(classifier(0), beta=1.5)


def test_the_packages_classifier_says_what_it_was_trained_on() -> None:
    """It is what `tree=c2t` takes, and finds that sure tokens are kept."""
    one, made = read_c2t(PACKAGED), json.loads((PACKAGED / "run.json").read_text())
    for name in ("width", "draft", "model"):
        assert made["settings"][name] == getattr(one.config, name)
    sure, unsure, deep = np.array([-0.05, -4.0, -0.05]), np.array([0.1, 5.0, 0.1]), np.array([1, 1, 8])
    likely = one(features_of(sure, unsure, deep))
    assert likely[0] > 0.7 > 0.1 > likely[1] and 0 < likely[2] < 1
    policy = c2t(beta=0.2, k=3)
    assert (policy.beta, policy.width, policy.depth) == (0.2, 3, 8)
