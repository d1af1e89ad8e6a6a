"""Folders of EAGLE layers: what is wrong with one is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from outpace.core.errors import FormatError
from outpace.heads.eagle import EagleConfig, EagleWeights, read_eagle, write_eagle
from outpace.heads.folder import WEIGHTS
from tests.eagle_heads import eagle_config, random_eagle
from tests.made_heads import with_config

MODEL = SimpleNamespace(hidden_size=32, fingerprint=lambda: "sha256:x")


def config(**options: object) -> EagleConfig:
    return eagle_config(MODEL, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_config(method="blockwise"), "heads of the method 'blockwise', accepted is 'eagle'"),
        (with_config(version=9), "version 9, accepted is 1"),
        (with_config(generation="eagle2"), "generation is 'eagle2', accepted are eagle, eagle3"),
        (with_config(generation="eagle"), r"taps is .*, accepted in eagle is final alone"),
        (with_config(taps=[]), r"taps is \[\], expected one or more names"),
        (with_config(target=...), "target is None, expected the fingerprint"),
        (with_config(hidden_size=0), "hidden_size is 0, accepted are whole numbers >= 1"),
        (with_config(num_heads=3), "num_kv_heads is 2, accepted are divisors of num_heads, 3"),
        (with_config(head_dim=24), "head_dim is 24, accepted are multiples of 16 up to 512"),
        (with_config(head_dim=528), "head_dim is 528, accepted are multiples of 16 up to 512"),
        (with_config(rms_eps="small"), "rms_eps is 'small', accepted are numbers above"),
        (with_config(rope_theta=1.0), "rope_theta is 1.0, accepted are numbers above 1,"),
        (with_config(rope_theta=True), "rope_theta is True, accepted are numbers"),
        (with_config(rope_scaling=3), "rope_scaling is 3, expected an object, or null"),
        (with_config(rope_scaling={"rope_type": "zigzag"}), "rope scaling 'zigzag' is not supported"),
        (with_config(fc_norm=1), "fc_norm is 1, accepted are true and false"),
        (with_config(fc_norm=True), r"the tensor fc_norm\.0\.weight is missing, expected floats \[32\]"),
        (with_config(qkv_bias=True), r"self_attn\.q_proj\.bias is missing, expected floats \[64\]"),
        (with_config(intermediate_size=7), r"gate_proj\.weight is F16\[48, 32\], expected floats \[7, 32\]"),
        (with_config(num_tokens=3), "token_ids is of 8 tokens, expected 3"),
        (with_config(num_tokens=0), "num_tokens is 0, accepted are whole numbers >= 1"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"has no weights: expected model\.safetensors"),
    ],
)
def test_every_fault_is_named(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write_eagle(tmp_path, random_eagle(config()))
    damage(tmp_path)
    with pytest.raises(FormatError, match=message) as raised:
        read_eagle(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_tensors_of_other_shapes_are_none() -> None:
    heads = random_eagle(config())
    assert heads.token_ids is not None
    with pytest.raises(AssertionError, match="tensors of shapes"):
        EagleWeights(replace(heads.config, head_dim=32), heads.tensors, heads.token_ids)
    with pytest.raises(AssertionError, match="an id for every drafted token"):
        EagleWeights(heads.config, heads.tensors, heads.token_ids[1:])


def test_there_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"accepted is what `outpace train eagle` has written"):
        read_eagle(tmp_path / "nowhere")


def test_scaled_rotary_tables_stay(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
    write_eagle(tmp_path, random_eagle(config(rope_scaling=scaling)))
    assert read_eagle(tmp_path).config.rope_scaling == scaling
    assert np.isfinite(read_eagle(tmp_path).tensors["fc.weight"]).all()
