"""Block types against the dequantisation of ggml-org's `gguf` package; the quantisers against the input."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from outpace.files.packing import KIND_OF_TYPE, LAYOUTS
from outpace.files.quants import QUANTISED, quantise_q4, quantise_q8, take_apart, widen
from tests.fake_models import TENSOR_TYPES, random_blocks

FLOATS = ("F32", "F16", "BF16")


def test_every_accepted_type_is_covered() -> None:
    assert set(TENSOR_TYPES) == {*QUANTISED, *FLOATS} == set(KIND_OF_TYPE)


@pytest.mark.parametrize("type_name", sorted(QUANTISED))
def test_blocks_mean_what_gguf_says(type_name: str) -> None:
    raw = random_blocks(type_name, 7, 1024, np.random.default_rng(1))
    expected = quants.dequantize(raw, GGMLQuantizationType[type_name])
    blocks = take_apart(type_name, raw)
    layout = LAYOUTS[KIND_OF_TYPE[type_name]]
    assert (blocks.group, blocks.offset) == (layout.group, layout.offset)
    assert blocks.q.max() < 1 << layout.bits
    if type_name.endswith("_K"):
        # Scale and minimum are each rounded to f16 once, a relative change of at most 2**-11.
        scale = np.abs(np.repeat(blocks.scale.astype(np.float32), blocks.group, axis=1)) * 64
        minimum = 0 if blocks.minimum is None else np.abs(np.repeat(blocks.minimum, blocks.group, axis=1))
        assert (np.abs(blocks.dequantise() - expected) <= (scale + minimum) * 2.0**-11 + 1e-7).all()
    else:
        np.testing.assert_array_equal(blocks.dequantise(), expected)


@pytest.mark.parametrize("type_name", FLOATS)
def test_floats_mean_what_gguf_says(type_name: str) -> None:
    values = np.random.default_rng(2).normal(size=(5, 33)).astype(np.float32)
    raw = quants.quantize(values, GGMLQuantizationType[type_name])
    expected = quants.dequantize(raw, GGMLQuantizationType[type_name])
    np.testing.assert_array_equal(widen(type_name, raw.view(np.uint8)), expected)


@pytest.mark.parametrize("cols", [32, 100, 576])
def test_q8_is_within_half_a_step(cols: int) -> None:
    weights = np.random.default_rng(3).normal(size=(9, cols)).astype(np.float32)
    blocks = quantise_q8(weights)
    step = np.repeat(blocks.scale.astype(np.float32), 32, axis=1)[:, :cols]
    assert (
        np.abs(blocks.dequantise() - weights) <= step * 0.5 * 1.08
    ).all()  # the f16 scale may clip the largest
    assert blocks.q.min() >= 1


@pytest.mark.parametrize("cols", [32, 100, 576])
def test_q4_is_at_least_as_close_as_a_plain_range(cols: int) -> None:
    weights = np.random.default_rng(4).normal(size=(9, cols)).astype(np.float32)
    error = np.square(quantise_q4(weights).dequantise() - weights).mean()
    full = weights[:, : cols // 32 * 32]
    plain = quants.dequantize(
        quants.quantize(np.ascontiguousarray(full), GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1
    )
    assert error <= np.square(plain - full).mean()


@pytest.mark.parametrize("quantise", [quantise_q4, quantise_q8])
def test_constant_and_zero_groups_are_exact(quantise) -> None:  # type: ignore[no-untyped-def]
    weights = np.zeros((2, 64), np.float32)
    weights[1] = 0.5
    np.testing.assert_allclose(quantise(weights).dequantise(), weights, rtol=2.0**-11)


@pytest.mark.parametrize("quantise", [quantise_q4, quantise_q8])
def test_padding_does_not_widen_the_last_group(quantise) -> None:  # type: ignore[no-untyped-def]
    weights = (100 + np.random.default_rng(5).random((3, 40))).astype(np.float32)
    whole = np.concatenate([weights, np.repeat(weights[:, -1:], 24, axis=1)], axis=1)
    np.testing.assert_array_equal(quantise(weights).dequantise(), quantise(whole).dequantise()[:, :40])
