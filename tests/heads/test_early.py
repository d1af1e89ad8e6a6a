"""Folders of early heads: what is written is read, every fault is named in a line, the layer is numpy's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from outpace.core.errors import FormatError
from outpace.heads.early import EarlyConfig, EarlyHead, EarlyWeights, read_early, write_early
from outpace.heads.file import read_heads
from outpace.heads.folder import CONFIG, WEIGHTS
from tests.made_heads import random_tensors, with_config, write_random_early
from tests.native_loops import looped_model

pytest.importorskip("safetensors")

CONFIGS = [
    EarlyConfig(1, 2, 6, 4, ("sha256:x",), "a model"),
    EarlyConfig(3, 4, 5, 1, ("sha256:x", "sha256:y")),
    EarlyConfig(63, 64, 1, 9, ("z",)),
]


def made(config: EarlyConfig) -> EarlyWeights:
    return EarlyWeights(config, random_tensors(config.shapes(), 3))


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_written_is_read(tmp_path: Path, config: EarlyConfig) -> None:
    head = made(config)
    write_early(tmp_path / "a" / "b", head)
    found = read_early(tmp_path / "a" / "b")
    assert found.config == config and found.tensors.keys() == head.tensors.keys()
    for name, tensor in head.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


def with_weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(change((folder / WEIGHTS).read_bytes()))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), r"cannot read .*config\.json"),
        (lambda folder: (folder / CONFIG).write_text("[1]"), "does not hold a JSON object"),
        (with_config(method="blockwise"), "heads of the method 'blockwise', accepted is 'early'"),
        (with_config(method=...), "heads of the method None, accepted is 'early'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(num_loops=1), "num_loops is 1, accepted are whole numbers from 2 to 64"),
        (with_config(num_loops=65), "num_loops is 65, accepted are whole numbers from 2 to 64"),
        (with_config(num_loops=...), "num_loops is None"),
        (with_config(loop=0), "loop is 0, accepted are whole numbers from 1 to 3"),
        (with_config(loop=4), "loop is 4, accepted are whole numbers from 1 to 3"),
        (with_config(loop=-1), "loop is -1"),
        (with_config(loop=1.0), r"loop is 1\.0"),
        (with_config(loop=True), "loop is True"),
        (with_config(loop="1"), "loop is '1'"),
        (with_config(num_loops=3), "loop is 3, accepted are whole numbers from 1 to 2"),
        (with_config(hidden_size=0), "hidden_size is 0, accepted are whole numbers >= 1"),
        (with_config(width=1 << 40), "width is "),
        (with_config(targets="sha256:x"), "targets is 'sha256:x', expected one or more fingerprints"),
        (with_config(targets=[]), r"targets is \[\], expected"),
        (with_config(targets=["x", 3]), r"targets is \['x', 3\], expected"),
        (with_config(targets=[""]), r"targets is \[''\], expected"),
        (with_config(targets=...), "targets is None, expected"),
        (with_config(hidden_size=7), r"hidden\.weight is F16\[1, 5\], expected floats \[1, 7\]"),
        (with_config(width=2), r"hidden\.weight is F16\[1, 5\], expected floats \[2, 5\]"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights: expected model\.safetensors"),
        (with_weights(lambda data: data[:7]), "it holds only 7 bytes"),
        (with_weights(lambda data: data[:-1]), "truncated"),
        (with_weights(lambda data: data[:-2] + b"\x00\x7c"), "has values that are not finite"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_early(tmp_path, made(CONFIGS[1]))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_early(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_heads_of_one_method_are_none_of_another(tmp_path: Path) -> None:
    write_early(tmp_path, made(CONFIGS[0]))
    with pytest.raises(FormatError, match="heads of the method 'early', accepted is 'blockwise'"):
        read_heads(tmp_path)
    with pytest.raises(FormatError, match=r"no folder of heads .*gone, accepted is what `train_early`"):
        read_early(tmp_path / "gone")


def test_tensors_of_other_shapes_are_no_head() -> None:
    head = made(CONFIGS[0])
    with pytest.raises(AssertionError, match="tensors of shapes"):
        EarlyWeights(replace(head.config, width=5), head.tensors)


def test_what_the_output_matrix_reads(tmp_path: Path) -> None:
    """By numpy in f64, for states with any companions."""
    target = looped_model(tmp_path, ("qwen3", "F32", 1, 3, True, "f32"))
    head = write_random_early(tmp_path / "head", target, loop=2, width=5)
    layer = EarlyHead(target, tmp_path / "head")
    assert layer.loop == 2
    states = np.random.default_rng(0).normal(size=(7, target.hidden_size)).astype(np.float32)
    t = {name: tensor.astype(np.float64) for name, tensor in head.tensors.items()}
    units = np.maximum(states @ t["hidden.weight"].T + t["hidden.bias"], 0)
    expected = states + units @ t["output.weight"].T + t["output.bias"]
    np.testing.assert_allclose(layer(states), expected, atol=1e-4)
    np.testing.assert_array_equal(layer(states[3:4]), layer(states)[3:4])
