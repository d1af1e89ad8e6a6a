"""Threads that share a call's work, more than there are processors: who does what does not matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outpace import _native
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from tests.native_matrices import packed
from tests.native_models import gguf_target
from tests.rows import on, opened

VOCAB_SIZE = 300


def answers(folder: Path, threads: int) -> list[object]:
    """Of calls of few and of many tokens, for two rows, with choices from parts and all of the logits."""
    target = gguf_target(folder, "gemma3", "Q4_1", threads=threads, context_length=256)
    rng = np.random.default_rng(3)
    found: list[object] = []
    samplings = [Sampling(), Sampling(temperature=0.9, top_k=20, seed=7)]
    for round in range(4):
        rows, _ = opened(target, [rng.integers(0, VOCAB_SIZE, 80).tolist(), [1, 2]])
        for size in (1, 3, 17, 70):
            trees = [TokenTree.chain(int(one[0]), one[1:].tolist()) for one in rng.integers(0, 99, (2, size))]
            scores = target.score(on(rows, trees))
            found += [scores.choose(samplings, [round, round], None, 8)]
            found += [scores.logits(0, [0, size - 1]).tobytes(), scores.hidden("final").tobytes()]
            found += [part.tobytes() for part in scores.top(1, [size - 1], 8)]
        target.free(rows)
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    return answers(tmp_path_factory.mktemp("alone"), 1)


@pytest.mark.parametrize("threads", [2, 3, 9, 40])
def test_any_number_of_threads_gives_the_bits_of_one(
    threads: int, alone: list[object], tmp_path: Path
) -> None:
    assert answers(tmp_path, threads) == alone


def test_ranks_are_those_of_a_stable_sort_whoever_has_seen_which_rows(tmp_path: Path) -> None:
    """Whole runs of equal outputs, so that every thread has some of each."""
    rng = np.random.default_rng(4)
    data, weights = packed("f32", 3, 64, rng)
    many = np.repeat(weights, 200, axis=0)[rng.permutation(600)]
    tiles = np.zeros((38, 64, 16), np.float32)  # as packed: by tiles of 16 rows, columns first
    padded = np.concatenate([many, np.zeros((8, 64), np.float32)])
    tiles[:] = padded.reshape(38, 16, 64).transpose(0, 2, 1)
    data = np.zeros(tiles.nbytes + 64, np.uint8)
    start = -data.ctypes.data % 64
    data[start : start + tiles.nbytes] = tiles.view(np.uint8).reshape(-1)
    data = data[start : start + tiles.nbytes]
    target = gguf_target(tmp_path, "llama", "Q4_1", threads=5)
    x = rng.standard_normal((3, 64)).astype(np.float32)
    outputs = _native.multiply("f32", 600, 64, data, x)
    expected = np.argsort(-outputs, axis=1, kind="stable")[:, :50]
    for _ in range(200):
        ids, values = target._decoder.product_top("f32", 600, 64, data, x, 50)
        np.testing.assert_array_equal(ids, expected)
        np.testing.assert_array_equal(values, np.take_along_axis(outputs, expected, axis=1))
