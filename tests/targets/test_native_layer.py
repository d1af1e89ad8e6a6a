"""A layer beside a target against numpy: its window, and calls whose nodes see the whole of their row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.core.layers import LayerSpec
from outpace.targets.native_layer import NativeLayer
from tests.native_models import INSTRUCTION_SETS, instruction_set

WIDTH, READ, HEADS, KV_HEADS, DIM = 64, 48, 6, 2, 32


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.targets.native_layer.KIND", "f32")


def layer_spec(window: int = 0) -> LayerSpec:
    rng = np.random.default_rng(5)

    def random(*shape: int) -> np.ndarray:
        return rng.normal(size=shape, scale=shape[-1] ** -0.5).astype(np.float32)

    shapes = {
        "q": (HEADS * DIM, READ), "k": (KV_HEADS * DIM, READ), "v": (KV_HEADS * DIM, READ),
        "o": (WIDTH, HEADS * DIM), "gate": (80, WIDTH), "up": (80, WIDTH), "down": (WIDTH, 80),
    }  # fmt: skip
    return LayerSpec(
        hidden_size=WIDTH, input_width=READ, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=DIM,
        intermediate_size=80, context_length=512, rms_eps=1e-5, rope_scale=1.0,
        rope_inv_freq=(100.0 ** (-np.arange(0, DIM, 2) / DIM)).astype(np.float32),
        matrices={name: 3 * random(*shape) for name, shape in shapes.items()},
        vectors={"ffn_norm": 1 + random(WIDTH)}, window=window,
    )  # fmt: skip


def twin(spec: LayerSpec, read: np.ndarray, residuals: np.ndarray, committed: int, whole: bool) -> np.ndarray:
    """f64[n, D] behind the layer, of a row's whole text: committed tokens, then the nodes of a call."""
    m = {name: matrix.astype(np.float64) for name, matrix in spec.matrices.items()}
    n = len(read)
    q, k, v = (read @ m[name].T for name in "qkv")
    turn = np.arange(n)[:, None] * spec.rope_inv_freq.astype(np.float64)

    def turned(x: np.ndarray) -> np.ndarray:
        low, high = np.split(x.reshape(n, -1, DIM), 2, axis=2)
        cos, sin = np.cos(turn)[:, None], np.sin(turn)[:, None]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)

    q, k, v = turned(q), turned(k), v.reshape(n, -1, DIM)
    query, key = np.arange(n)[:, None], np.arange(n)
    sees = (key <= query) | (whole & (query >= committed))
    if spec.window:
        sees &= query - key < spec.window
    heads = []
    for head in range(HEADS):
        of = head * KV_HEADS // HEADS
        scores = np.where(sees, q[:, head] @ k[:, of].T / np.sqrt(DIM), -np.inf)
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        heads.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, of])
    x = residuals + np.concatenate(heads, axis=1) @ m["o"].T
    normed = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + spec.rms_eps) * spec.vectors["ffn_norm"]
    gate = normed @ m["gate"].T
    found: np.ndarray = x + (gate / (1 + np.exp(-gate)) * (normed @ m["up"].T)) @ m["down"].T
    return found


def given(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, READ)).astype(np.float32), rng.normal(size=(count, WIDTH)).astype(
        np.float32
    )


def opened(layer: NativeLayer, read: np.ndarray, residuals: np.ndarray, committed: int) -> int:
    """A row with the first of these tokens."""
    row = layer.open()
    if committed:
        layer.score([row], [0, committed], chain(committed), read[:committed], residuals[:committed])
        layer.keep(row, range(1, committed))
    return row


def chain(count: int) -> Sequence[int]:
    return range(-1, count - 1)


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("window", [0, 1, 5, 20])
@pytest.mark.parametrize("whole", [False, True], ids=["causal", "whole"])
def test_rows_of_a_call_are_those_of_the_equations(isa: str, window: int, whole: bool) -> None:
    """Rows of several lengths and blocks around a page of 16; one of them has nothing committed."""
    spec = layer_spec(window)
    sizes = [(0, 7), (9, 1), (15, 2), (16, 16), (40, 9), (37, 30)]
    texts = [given(before + count, seed) for seed, (before, count) in enumerate(sizes)]
    with instruction_set(isa):
        layer = NativeLayer(spec, threads=2)
    rows = [opened(layer, *text, before) for text, (before, _) in zip(texts, sizes, strict=True)]
    starts = np.cumsum([0, *(count for _, count in sizes)]).tolist()
    parents = [parent for _, count in sizes for parent in chain(count)]
    new = [[part[before:] for part in text] for text, (before, _) in zip(texts, sizes, strict=True)]
    read, residuals = (np.concatenate(parts) for parts in zip(*new, strict=True))
    found = layer.score(rows, starts, parents, read, residuals, whole=whole)
    for at, (text, (before, _)) in enumerate(zip(texts, sizes, strict=True)):
        wanted = twin(spec, *text, before, whole)[before:]
        np.testing.assert_allclose(found[starts[at] : starts[at + 1]], wanted, rtol=1e-4, atol=2e-4)
        other = twin(spec, *text, before, not whole)[before:]
        if len(wanted) > 1:  # the last node alone sees the same
            assert np.abs(other - wanted).max() > 0.02
        # Companions change no bit, and neither does the next call of another kind.
        alone = layer.score([rows[at]], [0, len(wanted)], chain(len(wanted)), *new[at], whole=whole)
        np.testing.assert_array_equal(alone, found[starts[at] : starts[at + 1]])


def test_what_a_call_commits_is_what_its_nodes_read() -> None:
    """Keys and values are made of a node alone: the text may be committed along with a block behind it."""
    spec = layer_spec()
    layer, (read, residuals) = NativeLayer(spec, threads=1), given(30, 3)
    row = opened(layer, read, residuals, 8)
    layer.score([row], [0, 16], chain(16), read[8:24], residuals[8:24], whole=True)
    layer.keep(row, range(1, 10))
    assert layer.length(row) == 18
    found = layer.score([row], [0, 12], chain(12), read[18:], residuals[18:], whole=True)
    np.testing.assert_allclose(found, twin(spec, read, residuals, 18, True)[18:], rtol=1e-4, atol=2e-4)
    causal = layer.score([row], [0, 12], chain(12), read[18:], residuals[18:])
    np.testing.assert_allclose(causal, twin(spec, read, residuals, 18, False)[18:], rtol=1e-4, atol=2e-4)


def test_a_tree_is_no_chain() -> None:
    layer = NativeLayer(layer_spec(), threads=1)
    one, two = layer.open(), layer.open()
    call: Any = ([one, two], [0, 2, 5], [-1, 0, -1, 0, 0], *given(5, 1))
    with pytest.raises(OutpaceError, match="nodes that see their whole row have to be a chain"):
        layer.score(*call, whole=True)
    with pytest.raises(Exception, match="has no scored tree to keep a path of"):
        layer.keep(one, [])
    assert np.isfinite(layer.score(*call)).all()
