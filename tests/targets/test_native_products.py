"""Matrices beside a native model: numpy's values, one row's bits in any company, the model undisturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.contracts import Tapped
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.files.packing import FLOAT_BYTES, LAYOUTS, unpack
from outpace.files.quants import quantise_q4, quantise_q8
from outpace.targets.native import NativeTarget
from outpace.targets.native_products import packed_matrix
from tests.fake_models import VOCAB_SIZE
from tests.native_matrices import packed, quantised
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set
from tests.rows import on, opened

KINDS = [*LAYOUTS, *FLOAT_BYTES]
SHAPES = [(16, 32), (400, 96), (21, 50), (7, 33)]  # (rows, cols), whole tiles and ragged ones
THREADS = [1, 2, 3]


def weights_of(target: NativeTarget, name: str) -> np.ndarray:
    return unpack(target.weights.tensors[name], target.weights.buffer)


def scored(target: NativeTarget) -> tuple[np.ndarray, np.ndarray]:
    """(hidden states, logits) of the nodes of one call."""
    rows, _ = opened(target, [[1, 2, 3]])
    scores = target.score(on(rows, [TokenTree.chain(4, [5, 6, 7, 8])]))
    states, logits = scores.hidden("final"), scores.logits(0, range(5))
    target.free(rows)
    return states, logits


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], NativeTarget]:
    """One model on every instruction set and some numbers of threads."""
    targets = {}
    for isa in INSTRUCTION_SETS:
        for threads in THREADS:
            with instruction_set(isa):
                folder = tmp_path_factory.mktemp(f"{isa}-{threads}")
                targets[isa, threads] = gguf_target(folder, "llama", "Q8_0", threads=threads)
    return targets


@pytest.fixture
def target(everywhere: dict[tuple[str, int], NativeTarget]) -> Iterator[NativeTarget]:
    yield everywhere[INSTRUCTION_SETS[0], 2]


def test_it_is_tapped(target: NativeTarget) -> None:
    assert isinstance(target, Tapped)
    assert target.hidden_size == 64


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("tensor_type", "kind"), [("Q4_1", "q8s"), ("F32", "f32"), ("BF16", "f32")])
def test_equals_numpy(tensor_type: str, kind: str, shape: tuple[int, int], isa: str, tmp_path: Path) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, "llama", tensor_type, threads=2)
    rng = np.random.default_rng(sum(shape))
    weight = rng.standard_normal(shape).astype(np.float32)
    x = rng.standard_normal((9, shape[1])).astype(np.float32)
    product = target.product(weight)
    assert (product.kind, product.num_outputs) == (kind, shape[0])
    out = product(x)
    assert out.shape == (9, shape[0]) and out.dtype == np.float32
    seen = x.astype(np.float64)
    if kind == "q8s":
        step = np.abs(weight).max() / 127
        rounded = quantise_q8(weight).dequantise()
        assert np.abs(rounded - weight).max() < 0.51 * step + 2**-10 * np.abs(weight).max()
        weight, seen = rounded, quantised(x)
    size = np.abs(x).max() * np.abs(weight).sum(axis=1)  # the largest that the sum could be
    assert (np.abs(out - seen @ weight.T.astype(np.float64)) <= 1e-6 * size).all()


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_for_drafts_a_matrix_has_4_bits(isa: str, tmp_path: Path) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, "llama", "Q8_0", threads=2)
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((900, 300)).astype(np.float32)
    x = rng.standard_normal((5, 300)).astype(np.float32)
    product = target.product(weight).rounded()
    assert (product.kind, product.num_outputs) == ("q4m", 900)
    made = quantise_q4(weight).dequantise()
    size = np.abs(x).max() * np.abs(made).sum(axis=1)
    out, exact = product(x), quantised(x) @ made.T.astype(np.float64)
    assert (np.abs(out - exact) <= 1e-6 * size).all()
    assert np.abs(out - target.product(weight)(x)).max() > 0.1  # 8 bits are something else
    again = product.rounded()
    np.testing.assert_array_equal(again(x), out)


def test_what_has_nothing_to_gain_from_4_bits_stays(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0")
    rng = np.random.default_rng(8)
    small = rng.standard_normal((100, 64)).astype(np.float32)
    assert target.product(small).rounded().kind == "q8s"
    projection = target.projection()
    assert projection.rounded() is projection  # it lies in the model's file
    called = target.product(rng.standard_normal((900, 300)).astype(np.float32))
    called(np.zeros((1, 300), np.float32))
    assert called.kind == "q8s" and called.rounded() is called
    floats = gguf_target(tmp_path, "llama", "F32")
    assert floats.product(rng.standard_normal((900, 300)).astype(np.float32)).rounded().kind == "f32"


def test_weights_that_are_bf16_stay_so_beside_floats(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "BF16")
    weight = np.random.default_rng(0).integers(-128, 128, (40, 64)).astype(np.float32) / np.float32(64)
    product = target.product(weight)
    assert product.kind == "bf16"
    np.testing.assert_array_equal(product(np.eye(64, dtype=np.float32)), weight.T)


@pytest.mark.parametrize("tensor_type", ["BF16", "Q8_0"])
def test_weights_of_other_types_are_made_floats_first(tensor_type: str, tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", tensor_type)
    weight: Any = np.random.default_rng(0).normal(size=(40, 64))
    x = np.eye(64, dtype=np.float32)
    np.testing.assert_array_equal(target.product(weight)(x), target.product(weight.astype(np.float32))(x))
    with pytest.raises(AssertionError, match="looks at the bits"):
        packed_matrix(weight, "bf16")


@pytest.mark.parametrize("kind", KINDS)
def test_bits_depend_on_nothing_else(everywhere: dict[tuple[str, int], NativeTarget], kind: str) -> None:
    """Not on companions, threads or the instruction set."""
    rng = np.random.default_rng(2)
    data, _ = packed(kind, 401, 70, rng)
    x = rng.standard_normal((70, 70)).astype(np.float32)
    alone = None
    for target in everywhere.values():
        every = target._decoder.product(kind, 401, 70, data, x)
        alone = every if alone is None else alone
        np.testing.assert_array_equal(every, alone)
        for count in [*range(9), 16, 17, 63, 64, 65]:
            out = target._decoder.product(kind, 401, 70, data, x[:count])
            np.testing.assert_array_equal(out, alone[:count])
        np.testing.assert_array_equal(target._decoder.product(kind, 401, 70, data, x[41:42]), alone[41:42])


def test_top_is_a_stable_sort(everywhere: dict[tuple[str, int], NativeTarget]) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((11, 48)).astype(np.float32)[rng.integers(0, 11, 420)]  # many equal outputs
    x = rng.standard_normal((7, 48)).astype(np.float32)
    for target in everywhere.values():
        for rows in (420, 16, 5):
            product = target.product(weight[:rows])
            outputs = product(x)
            for k in (1, 2, 5, 8, 64, 65, 500):
                ids, values = product.top(x, k)
                expected = np.argsort(-outputs, axis=1, kind="stable")[:, :k]
                np.testing.assert_array_equal(ids, expected)
                np.testing.assert_array_equal(values, np.take_along_axis(outputs, expected, axis=1))


@pytest.mark.parametrize("threads", THREADS)
def test_the_last_call_stays_valid(everywhere: dict[tuple[str, int], NativeTarget], threads: int) -> None:
    target = everywhere[INSTRUCTION_SETS[0], threads]
    target.tap("1")
    rng = np.random.default_rng(4)
    product = target.product(rng.standard_normal((900, 130)).astype(np.float32))  # wider than the model
    x = rng.standard_normal((90, 130)).astype(np.float32)
    rows, _ = opened(target, [[1, 2, 3], [4]])
    trees = [TokenTree([5, 6, 7, 8], [-1, 0, 0, 1]), TokenTree.chain(9, [10])]
    samplings = [Sampling(temperature=0.8, top_k=9, seed=1), Sampling()]

    def answers(between: bool) -> list[object]:
        scores = target.score(on(rows, trees))
        found: list[object] = []
        for ask in (
            lambda: scores.choose(samplings, [3, 1], None, 8),
            lambda: [part.tolist() for part in scores.top(0, [0, 3], 8)],
            lambda: [part.tolist() for part in scores.top(1, [1], 20)],
            lambda: [scores.hidden(tap).tolist() for tap in ("final", "1")],
            lambda: scores.logits(0, [2]).tolist(),
        ):
            if between:
                product(x)
                product.top(x, 64)
                target.projection().top(x[:3, :64], 9)
            found.append(ask())
        target.keep(rows[:1], [[1, 3]])
        found.append(target.score(on(rows[:1], [TokenTree.root(3)])).logits(0, [0]).tolist())
        return found

    forks = [target.fork(row) for row in rows]
    expected = answers(between=False)
    target.free(rows)
    rows = forks
    assert answers(between=True) == expected
    target.free(rows)


@pytest.mark.parametrize("family", ["llama", "llama3", "gemma3"])  # llama3 has an output matrix of its own
@pytest.mark.parametrize("tensor_type", ["F32", "Q4_1", "Q8_0"])
def test_the_projection_is_the_output_matrix_in_place(family: str, tensor_type: str, tmp_path: Path) -> None:
    target = gguf_target(tmp_path, family, tensor_type, threads=2)
    states, logits = scored(target)
    projection = target.projection()
    assert projection.num_outputs == VOCAB_SIZE
    assert np.shares_memory(projection._matrix[-1], target.weights.buffer)
    np.testing.assert_array_equal(projection(states), logits)
    ids, values = projection.top(states, 5)
    np.testing.assert_array_equal(ids, np.argsort(-logits, axis=1, kind="stable")[:, :5])
    np.testing.assert_array_equal(values, np.take_along_axis(logits, ids, axis=1))


@pytest.mark.parametrize("tensor_type", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_1", "Q6_K"])
def test_some_rows_of_the_projection(tensor_type: str, tmp_path: Path) -> None:
    size = {"hidden_size": 256, "intermediate_size": 256} if tensor_type == "Q6_K" else {}
    target = gguf_target(tmp_path, "llama", tensor_type, **size)
    states, logits = scored(target)
    ids = np.array([299, 0, 17, 17, 5, 16, 298, 31])
    projection = target.projection(ids)
    assert projection.num_outputs == len(ids)
    if tensor_type in ("F32", "F16", "BF16", "Q8_0"):  # 8 bits taken apart and packed again are the same
        np.testing.assert_array_equal(projection(states), logits[:, ids])
    else:
        rows = weights_of(target, "embed")[ids]
        np.testing.assert_array_equal(projection(states), target.product(rows)(states))
        rounding = np.abs(quantise_q8(rows).dequantise() - rows)
        bound = quantised(states).__abs__() @ rounding.T.astype(np.float64)
        assert (np.abs(projection(states) - logits[:, ids]) <= 1.001 * bound + 1e-5).all()


@pytest.mark.parametrize("ids", [[], [300], [-1], [[1, 2]]], ids=str)
def test_ids_that_the_vocabulary_lacks_are_refused(target: NativeTarget, ids: list[int]) -> None:
    with pytest.raises(ValueError, match="accepted are 0 to 299"):
        target.projection(np.array(ids, dtype=np.int64))


def test_bad_products_are_refused(target: NativeTarget) -> None:
    decoder = target._decoder
    data, _ = packed("q8s", 32, 64, np.random.default_rng(5))
    x = np.zeros((2, 64), np.float32)
    for arguments, message in (
        (("q8s", 32, 64, data, x[:, :63]), "x has to be"),
        (("q8s", 48, 64, data, x), "wrong size"),
        (("q8s", 32, 64, data[:-64], x), "wrong size"),
        (("q7", 32, 64, data, x), "unknown kind"),
        (("q8s", 0, 64, data, x), "1 to 16777216 rows"),
    ):
        with pytest.raises(ValueError, match=message):
            decoder.product(*arguments)
        with pytest.raises(ValueError, match=message):
            decoder.product_top(*arguments, 3)
    for k in (0, 33, -1):
        with pytest.raises(ValueError, match="1 to 32"):
            decoder.product_top("q8s", 32, 64, data, x, k)
    shifted = np.empty(data.size + 128, np.uint8)
    start = -shifted.ctypes.data % 64 + 4
    with pytest.raises(ValueError, match="alignment"):
        decoder.product("q8s", 32, 64, shifted[start : start + data.size], x)


def test_taps_come_with_the_next_call(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q8_0")
    opened_with = gguf_target(tmp_path, "llama", "Q8_0", taps=[0, 2])
    tree = TokenTree.chain(4, [5, 6])
    rows, before = opened(target, [[1, 2, 3]])
    target.tap("2", "final", "0")
    target.tap("0")
    with pytest.raises(ValueError, match=r"accepted are final$"):
        before.hidden("0")
    scores = target.score(on(rows, [tree]))
    expected = opened_with.score(on(opened(opened_with, [[1, 2, 3]])[0], [tree]))
    for tap in ("final", "0", "2"):
        np.testing.assert_array_equal(scores.hidden(tap), expected.hidden(tap))
    for wrong in ("3", "-1", "first", ""):
        with pytest.raises(ValueError, match="accepted are final and the layers 0 to 2"):
            target.tap(wrong)
