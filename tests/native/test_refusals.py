"""Sizes that the native module is not made for: refused in one line before anything is read or allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from outpace import _native
from outpace.bench.bandwidth import read_bandwidth
from outpace.core.errors import OutpaceError
from outpace.targets.native import NativeTarget
from tests.native_matrices import packed
from tests.native_models import gguf_target
from tests.rows import opened

MOST = 2**31 - 1


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> NativeTarget:
    return gguf_target(tmp_path_factory.mktemp("model"), "llama", "Q8_0")


def decoder_of(
    target: NativeTarget, positions: int = 64, threads: int = 1, **changes: Any
) -> _native.Decoder:
    """A decoder of this target's weights, of a config with these changes."""
    fields = {
        name: getattr(target.config, name)
        for name in target.config.__slots__
        if name not in ("architecture", "tie_embeddings")
    }
    fields["rope_inv_freq"] = [table.tolist() for table in target.config.rope_inv_freq]
    tensors = {n: (t.kind, t.rows, t.cols, t.offset, t.nbytes) for n, t in target.weights.tensors.items()}
    return _native.Decoder(fields | changes, tensors, target.weights.buffer, threads, True, positions)


def test_the_helper_opens_what_is_right(target: NativeTarget) -> None:
    decoder = decoder_of(target)
    assert decoder.length(decoder.open()) == 0


@pytest.mark.parametrize("threads", [0, -1, 1025, MOST, -MOST])
def test_threads(target: NativeTarget, threads: int) -> None:
    with pytest.raises(ValueError, match="num_threads has to be 1 to 1024"):
        _native.read_bandwidth(threads, 1 << 20)
    with pytest.raises(ValueError, match="num_threads has to be 1 to 1024"):
        decoder_of(target, threads=threads)
    with pytest.raises(OutpaceError, match=r"threads is .*, accepted are whole numbers from 1 to 1024"):
        read_bandwidth(threads)


def test_bytes_that_are_read(target: NativeTarget) -> None:
    for num_bytes in (0, 1, 63, 64, 4097):
        assert _native.read_bandwidth(3, num_bytes) > 0
        assert _native.read_bandwidth(3, num_bytes, huge=True) > 0
    with pytest.raises(MemoryError):
        _native.read_bandwidth(1, 2**64 - 1)
    for options in ({"num_bytes": 0}, {"num_bytes": 1.5}, {"repeats": 0}):
        with pytest.raises(OutpaceError, match="accepted are whole numbers from 1"):
            read_bandwidth(1, **options)


@pytest.mark.parametrize(
    ("rows", "cols"), [(0, 64), (32, 0), (-1, 64), (MOST, 64), (32, MOST), (MOST, MOST), (2**24 + 1, 1)]
)
def test_sizes_of_matrices(target: NativeTarget, rows: int, cols: int) -> None:
    data, _ = packed("q8s", 32, 64, np.random.default_rng(5))
    x = np.zeros((2, 64), np.float32)
    decoder = target._decoder
    for call in (
        lambda: _native.unpack("q8s", rows, cols, data),
        lambda: _native.multiply("q8s", rows, cols, data, x),
        lambda: decoder.product("q8s", rows, cols, data, x),
        lambda: decoder.product_top("q8s", rows, cols, data, x, 1),
    ):
        with pytest.raises(ValueError, match=r"1 to 16777216 rows and columns|x has to be"):
            call()


def test_no_vectors_give_no_products(target: NativeTarget) -> None:
    data, _ = packed("q8s", 32, 64, np.random.default_rng(5))
    none = np.zeros((0, 64), np.float32)
    assert _native.multiply("q8s", 32, 64, data, none).shape == (0, 32)
    assert target._decoder.product("q8s", 32, 64, data, none).shape == (0, 32)
    ids, values = target._decoder.product_top("q8s", 32, 64, data, none, 3)
    assert ids.shape == values.shape == (0, 3)


@pytest.mark.parametrize("k", [0, -1, 65, MOST, -MOST])
def test_how_many_are_the_top(target: NativeTarget, k: int) -> None:
    data, _ = packed("q8s", 640, 64, np.random.default_rng(5))
    rows, _ = opened(target, [[1, 2, 3]])
    with pytest.raises(ValueError, match="top finds 1 to 64 tokens"):
        target._decoder.top([0] * 1000, k)
    with pytest.raises(ValueError, match="top finds 1 to 64 rows"):
        target._decoder.product_top("q8s", 640, 64, data, np.zeros((1000, 64), np.float32), k)
    target.free(rows)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": 15}, "16 to 2147483647 positions"),
        ({"positions": -1}, "16 to 2147483647 positions"),
        ({"positions": 2**62}, "16 to 2147483647 positions"),
        ({"num_heads": 2**22, "num_kv_heads": 2**22}, "a size of the model's config"),
        ({"num_heads": MOST}, "a size of the model's config"),
        ({"hidden_size": 0}, "a size of the model's config"),
        ({"vocab_size": 2**24 + 1}, "a size of the model's config"),
        ({"context_length": -5}, "a size of the model's config"),
        ({"head_dim": "many"}, "a wrong head_dim"),
        ({"num_heads": 2**40}, "a wrong num_heads"),
        ({"rope_inv_freq": [[0.5, None]]}, "a wrong rope_inv_freq"),
        ({"rms_eps": float("nan")}, "have to be finite"),
        ({"attention_scale": float("inf")}, "have to be finite"),
        ({"layer_window": []}, "do not fit together"),
        ({"layer_rope": [9] * 3}, "a rope table that does not exist"),
        ({"layer_order": [0] * 4}, "do not fit together"),
        ({"layer_order": [0, 1, MOST]}, "weights of one that does not exist"),
        ({"layer_order": [0, -1, 1]}, "weights of one that does not exist"),
        ({"loop_norm": 1}, "a wrong loop_norm"),
        ({"loop_norm": True}, "loop_norm needs layers that all run several times"),
        ({"loop_norm": True, "layer_order": [0, 1, 0]}, "loop_norm needs layers that all run several times"),
    ],
    ids=str,
)
def test_configs(target: NativeTarget, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        decoder_of(target, **changes)
    assert "\n" not in str(error.value)


def test_numbers_of_nodes_and_rows(target: NativeTarget) -> None:
    rows, _ = opened(target, [[1, 2, 3]])
    decoder = target._decoder
    for first, count in ((MOST, 1), (-MOST, 1), (0, MOST), (1, 1024), (1024, 1)):
        with pytest.raises(ValueError, match="no node"):
            decoder.choose([(first, count, 0, 0.0, 0, 1.0, 0.0, 0)])
    for position in (2**63 - 1, -(2**63)):
        [[token]] = decoder.choose([(0, 1, position, 1.0, 0, 1.0, 0.0, 2**64 - 1)])
        assert 0 <= token < target.vocab_size
    for nodes in ([MOST], [-1], [0, 3]):
        with pytest.raises(ValueError, match="no node"):
            decoder.logits(nodes)
    for row in (MOST, -1, 17):
        for call in (decoder.fork, decoder.close, decoder.length, lambda row: decoder.keep(row, [])):
            with pytest.raises(ValueError, match=r"no row|no scored tree"):
                call(row)
    with pytest.raises(ValueError, match="was not tapped"):
        decoder.hidden(MOST)
    for starts in ([0, MOST], [0, -1], [1, 1], [0], []):
        with pytest.raises(ValueError, match="fit together"):
            decoder.score(rows, starts, [5], [-1])
    for parents in ([0], [-2], [MOST]):
        with pytest.raises(ValueError, match="before its child"):
            decoder.score(rows, [0, 1], [5], parents)
    target.free(rows)
