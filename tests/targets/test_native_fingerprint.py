"""A model's name: the same wherever and however it is opened, another for any other weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fake_models import make_model, write_gguf, write_hf, write_tokenizer
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set, open_target


def written(model: Any, folder: Path) -> str:
    """The fingerprint of a folder with this model."""
    model.save_pretrained(folder / "hf")
    write_tokenizer(folder / "hf")
    return open_target(folder / "hf", folder / "cache").fingerprint()


@pytest.mark.parametrize("tensor_type", ["F32", "Q4_1", "Q5_0"])
def test_it_is_the_same_wherever_the_file_is_opened(tensor_type: str, tmp_path: Path) -> None:
    names = set()
    for isa in INSTRUCTION_SETS:
        for threads in (1, 2):
            with instruction_set(isa):
                target = gguf_target(tmp_path, "gemma3", tensor_type, threads=threads, context_length=64)
            names |= {target.fingerprint(), target.fingerprint()}
    assert len(names) == 1


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_the_container_does_not_matter(family: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", family)
    write_gguf(tmp_path / "model.gguf", family)
    folder, file = (open_target(tmp_path / name, tmp_path / "cache") for name in ("hf", "model.gguf"))
    assert folder.fingerprint() == file.fingerprint()


@pytest.mark.parametrize(
    "name",
    ["model.embed_tokens.weight", "model.norm.weight", "model.layers.1.mlp.down_proj.weight",
     "model.layers.2.self_attn.k_proj.bias"],
)  # fmt: skip
def test_one_other_weight_is_another_model(name: str, tmp_path: Path) -> None:
    model = make_model("qwen2")
    before = written(model, tmp_path / "before")
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1 if "norm" in name else 5] += 0.25
    assert written(model, tmp_path / "after") != before


def test_another_precision_or_shape_is_another_model(tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", "llama")
    names = [
        open_target(tmp_path / "hf", tmp_path / "cache", quantize=precision).fingerprint()
        for precision in (None, "q8", "q4")
    ]
    names.append(written(make_model("llama", rms_norm_eps=1e-6), tmp_path / "eps"))
    names.append(written(make_model("llama", rope_theta=5e4), tmp_path / "base"))
    assert len(set(names)) == 5


def test_it_stays_from_release_to_release(tmp_path: Path) -> None:
    """What was trained for a model is found by this name: a change here orphans it."""
    model = make_model("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.arange(parameter.numel()) % 251 - 125
            parameter.copy_((values / 128).view_as(parameter))
    digest = "2a4935db31b4123a20d221277a378221efa07962ad0ded159dd97bfb0d68431e"
    assert written(model, tmp_path) == f"sha256:{digest}"
