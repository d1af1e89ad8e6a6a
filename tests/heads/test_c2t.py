"""Folders of C2T's classifiers: what is written is read, every fault is named in a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from outpace.core.errors import FormatError
from outpace.heads.c2t import C2TConfig, Classifier, read_c2t, write_c2t
from outpace.heads.folder import CONFIG, WEIGHTS
from tests.made_heads import random_tensors, with_config

pytest.importorskip("safetensors")

CONFIGS = [
    C2TConfig(48, draft="small_model:model=x", model="a model"),
    C2TConfig(1, ("joint",)),
    C2TConfig(5, ("entropy", "depth")),
]


def made(config: C2TConfig) -> Classifier:
    return Classifier(config, random_tensors(config.shapes(), 3))


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_written_is_read(tmp_path: Path, config: C2TConfig) -> None:
    one = made(config)
    write_c2t(tmp_path / "a" / "b", one)
    found = read_c2t(tmp_path / "a" / "b")
    assert found.config == config and found.tensors.keys() == one.tensors.keys()
    for name, tensor in one.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_config(method="early"), "heads of the method 'early', accepted is 'c2t'"),
        (with_config(version=2), "version 2, accepted is 1"),
        (with_config(width=0), "width is 0, accepted are whole numbers >= 1"),
        (with_config(width="48"), "width is '48'"),
        (with_config(features=...), "features is None, accepted are some of joint, entropy, depth"),
        (with_config(features=[]), r"features is \[\], accepted"),
        (with_config(features=["depth", "joint"]), "in this order"),
        (with_config(features=["joint", "joint"]), "in this order"),
        (with_config(features=["joint", 7, {}]), "in this order"),
        (with_config(features="joint"), "features is 'joint'"),
        (with_config(features=["joint"]), r"hidden\.weight is F16\[48, 3\], expected floats \[48, 1\]"),
        (with_config(width=2), r"hidden\.weight is F16\[48, 3\], expected floats \[2, 3\]"),
        (lambda folder: (folder / WEIGHTS).write_bytes(b"x"), "holds only 1 byte"),
        (lambda folder: (folder / CONFIG).unlink(), r"cannot read .*config\.json"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_c2t(tmp_path, made(CONFIGS[0]))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_c2t(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no folder of heads .*gone, accepted is what `outpace train c2t`"):
        read_c2t(tmp_path / "gone")


def test_tensors_of_other_shapes_are_no_classifier() -> None:
    one = made(CONFIGS[0])
    with pytest.raises(AssertionError, match="tensors of shapes"):
        Classifier(replace(one.config, width=5), one.tensors)


def test_a_likelihood_is_one_however_large_the_logit() -> None:
    one = made(CONFIGS[1])
    sure = Classifier(one.config, {**one.tensors, "output.bias": np.array([1e4], np.float32)})
    never = Classifier(one.config, {**one.tensors, "output.bias": np.array([-1e4], np.float32)})
    features = np.zeros((3, 3))
    assert sure(features).tolist() == [1.0] * 3 and never(features).tolist() == [0.0] * 3
