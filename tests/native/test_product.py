"""Block products against numpy: the same arithmetic, and the same bits on every path."""

from __future__ import annotations

import numpy as np
import pytest

from outpace import _native
from outpace.files.packing import FLOAT_BYTES, LAYOUTS, pack_blocks
from outpace.files.quants import Blocks
from tests.native_matrices import aligned, packed, quantised
from tests.native_models import INSTRUCTION_SETS, instruction_set

KINDS = [*LAYOUTS, *FLOAT_BYTES]
SHAPES = [(16, 32), (48, 96), (21, 50), (7, 33)]  # (rows, cols), whole tiles and ragged ones


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_numpy(isa: str, kind: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    data, weights = packed(kind, *shape, rng)
    x = rng.standard_normal((19, shape[1])).astype(np.float32)
    exact = (x if kind in FLOAT_BYTES else quantised(x)).astype(np.float64) @ weights.T.astype(np.float64)
    with instruction_set(isa):
        out = _native.multiply(kind, *shape, data, x)
    size = np.abs(x).max() * np.abs(weights).sum(axis=1)  # the largest that the sum could be
    assert (np.abs(out - exact) <= 1e-6 * size).all()


@pytest.mark.parametrize("shape", [(40, 160), (21, 50)])
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_on_every_instruction_set(kind: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    data, _ = packed(kind, *shape, rng)
    x = rng.standard_normal((40, shape[1])).astype(np.float32)
    with instruction_set("portable"):
        expected = _native.multiply(kind, *shape, data, x)
    for isa in INSTRUCTION_SETS:
        with instruction_set(isa):
            for count in range(1, 41):
                out = _native.multiply(kind, *shape, data, x[:count])
                np.testing.assert_array_equal(out, expected[:count], f"{isa}, {count} tokens")


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_does_not_see_its_companions(isa: str, kind: str) -> None:
    rng = np.random.default_rng(2)
    data, _ = packed(kind, 33, 96, rng)
    x = rng.standard_normal((70, 96)).astype(np.float32)
    with instruction_set(isa):
        alone = np.concatenate([_native.multiply(kind, 33, 96, data, row[None]) for row in x])
        for count in [*range(2, 18), 31, 32, 33, 64, 70]:
            np.testing.assert_array_equal(_native.multiply(kind, 33, 96, data, x[:count]), alone[:count])


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", LAYOUTS)
def test_extreme_values_are_exact(kind: str, isa: str) -> None:
    """Largest weights against largest activations: no step of the integer arithmetic may saturate."""
    layout = LAYOUTS[kind]
    q = np.full((16, 64), 2**layout.bits - 1, np.uint8)
    q[8:] = 0
    q[4:8, 1::2] = 0
    scale = np.ones((16, 64 // layout.group), np.float16)
    low = np.zeros_like(scale) if layout.has_minimum else None
    data = aligned(pack_blocks(kind, Blocks(q, scale, low, layout.offset, layout.group)).reshape(-1))
    signs = np.ones((40, 64), np.float32)
    signs[1::3] = -1  # tokens of one sign, of the other and of both
    signs[2::3, ::2] = -1
    x = 127 * signs
    exact = (x.astype(np.float64) @ (q.astype(np.float64) - layout.offset).T).astype(np.float32)
    with instruction_set(isa):
        for count in range(1, 41):
            np.testing.assert_array_equal(_native.multiply(kind, 16, 64, data, x[:count]), exact[:count])


@pytest.mark.parametrize("kind", KINDS)
def test_rows_unpack_as_numpy_says(kind: str) -> None:
    data, weights = packed(kind, 21, 70, np.random.default_rng(3))
    np.testing.assert_array_equal(_native.unpack(kind, 21, 70, data), weights)


def test_zero_activations_give_the_zero_row() -> None:
    data, _ = packed("q5m", 16, 64, np.random.default_rng(4))
    np.testing.assert_array_equal(
        _native.multiply("q5m", 16, 64, data, np.zeros((1, 64), np.float32)), np.zeros((1, 16))
    )


def test_unknown_instruction_set_is_refused_with_the_accepted_names() -> None:
    data, _ = packed("f32", 16, 32, np.random.default_rng(5))
    with instruction_set("sse9"), pytest.raises(ValueError, match=r"accepted: .*portable"):
        _native.multiply("f32", 16, 32, data, np.zeros((1, 32), np.float32))
