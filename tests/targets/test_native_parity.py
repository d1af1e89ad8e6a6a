"""Whole models against transformers: every family, from Hugging Face folders and from GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from outpace.core.tree import TokenTree
from outpace.files.packing import unpack
from outpace.targets.native import NativeTarget
from tests.fake_models import FAMILIES, VOCAB_SIZE, write_gguf, write_hf
from tests.native_models import INSTRUCTION_SETS, instruction_set, open_target
from tests.rows import on, opened

PROMPT = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB_SIZE, 45)]


def all_logits(target: NativeTarget, tokens: list[int]) -> np.ndarray:
    """f32[len(tokens) - 1, V]: logits after all tokens but the first, from one call on a cached token."""
    rows, _ = opened(target, [tokens[:1]])
    scores = target.score(on(rows, [TokenTree.chain(tokens[1], tokens[2:])]))
    out = scores.logits(0, range(len(tokens) - 1))
    target.free(rows)
    return out


def reference(model: torch.nn.Module, tokens: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, 1:].numpy()


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_folder_equals_transformers(family: str, isa: str, tmp_path: Path) -> None:
    model = write_hf(tmp_path / "hf", family)
    with instruction_set(isa):
        target = open_target(tmp_path / "hf", tmp_path / "cache", kv="f32")
    assert target.isa == isa
    np.testing.assert_allclose(all_logits(target, PROMPT), reference(model, PROMPT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_equals_transformers(family: str, tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", family)
    target = open_target(tmp_path / "model.gguf", tmp_path / "cache", kv="f32")
    np.testing.assert_allclose(all_logits(target, PROMPT), reference(model, PROMPT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_exact(dtype: str, tmp_path: Path) -> None:
    write_hf(tmp_path / "hf", "qwen3", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    target = open_target(tmp_path / "hf", tmp_path / "cache", kv="f32")
    np.testing.assert_allclose(all_logits(target, PROMPT), reference(model, PROMPT), atol=1e-4, rtol=1e-4)


def twin(model: Any, target: NativeTarget) -> torch.nn.Module:
    """The model with the packed weights, whose products round their input first as ours do: 8 bit, one scale
    per token and group of 32."""

    def round_input(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        groups = inputs[0].unflatten(-1, (-1, 32))
        scale = groups.abs().amax(-1, keepdim=True) / 127
        return ((groups / scale.clamp(min=1e-30)).round().mul(scale).flatten(-2),)

    weights = target.weights
    packed = {name: torch.from_numpy(unpack(t, weights.buffer)) for name, t in weights.tensors.items()}
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(packed["embed"])
        for i, layer in enumerate(model.model.layers):
            for module, names in ((layer.self_attn, "q k v o"), (layer.mlp, "gate up down")):
                for name in names.split():
                    getattr(module, f"{name}_proj").weight.copy_(packed[f"layers.{i}.{name}"])
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(round_input)
    return model


def assert_same_arithmetic(target: NativeTarget, model: torch.nn.Module, exact: np.ndarray) -> None:
    """Equal until the first value that rounds to the other neighbour, which moves all later ones a little."""
    theirs = reference(twin(model, target), PROMPT)
    distance = np.abs(all_logits(target, PROMPT) - theirs).mean(axis=1) / theirs.std()
    assert distance[0] < 1e-5
    assert distance.mean() < 0.6 * np.abs(exact - theirs).mean() / theirs.std()


@pytest.mark.parametrize("tensor_type", ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"])
def test_quantised_files_equal_the_same_arithmetic_in_torch(tensor_type: str, tmp_path: Path) -> None:
    size = {"hidden_size": 256, "intermediate_size": 256} if tensor_type.endswith("K") else {}
    model = write_gguf(tmp_path / "model.gguf", "llama", tensor_type=tensor_type, **size)
    target = open_target(tmp_path / "model.gguf", tmp_path / "cache", kv="f32")
    exact = reference(model, PROMPT)
    assert np.abs(all_logits(target, PROMPT) - exact).mean() < 0.03 * exact.std()
    assert_same_arithmetic(target, model, exact)


@pytest.mark.parametrize(("quantize", "loss"), [("q8", 0.05), ("q4", 0.4)])
def test_quantised_at_load_equals_the_same_arithmetic_in_torch(
    quantize: str, loss: float, tmp_path: Path
) -> None:
    model = write_hf(tmp_path / "hf", "llama")
    target = open_target(tmp_path / "hf", tmp_path / "cache", quantize=quantize, kv="f32")
    exact = reference(model, PROMPT)
    assert 0 < np.abs(all_logits(target, PROMPT) - exact).mean() < loss * exact.std()
    assert_same_arithmetic(target, model, exact)


def test_taps_are_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    model = write_hf(tmp_path / "hf", "llama")
    target = open_target(tmp_path / "hf", tmp_path / "cache", kv="f32", taps=[0, 1])
    rows, _ = opened(target, [PROMPT[:1]])
    scores = target.score(on(rows, [TokenTree.chain(PROMPT[1], PROMPT[2:])]))
    with torch.no_grad():
        states = model(torch.tensor([PROMPT]), output_hidden_states=True).hidden_states
    for tap, state in (("0", states[1]), ("1", states[2]), ("final", states[-1])):
        np.testing.assert_allclose(scores.hidden(tap), state[0, 1:].numpy(), atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="accepted are final, 0, 1"):
        scores.hidden("2")


def test_half_precision_cache_is_close(tmp_path: Path) -> None:
    model = write_hf(tmp_path / "hf", "llama")
    target = open_target(tmp_path / "hf", tmp_path / "cache", kv="f16")
    ours, theirs = all_logits(target, PROMPT), reference(model, PROMPT)
    assert 0 < np.abs(ours - theirs).max() < 0.01 * theirs.std()


def test_embedding_rows_come_from_the_packed_matrix(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "model.gguf", "llama", tensor_type="Q8_0")
    target = open_target(tmp_path / "model.gguf", tmp_path / "cache")
    weights = target.weights
    embed = unpack(weights.tensors["embed"], weights.buffer)
    np.testing.assert_array_equal(embed, model.model.embed_tokens.weight.detach().numpy())
