"""Whole models against transformers: every family, from Hugging Face folders and from GGUF files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from outpace.core.tree import TokenTree
from outpace.formats.packing import unpack
from outpace.targets.native import NativeTarget
from tests.fake_models import FAMILIES, VOCAB_SIZE, write_gguf, write_hf
from tests.native_models import INSTRUCTION_SETS, instruction_set, open_target

PROMPT = [int(t) for t in np.random.default_rng(0).integers(0, VOCAB_SIZE, 45)]


def all_logits(target: NativeTarget, tokens: list[int]) -> np.ndarray:
    """f32[len(tokens) - 1, V]: logits after every token but the first, from one call on a cached first token."""
    rows, _ = target.prefill([tokens[:1]])
    scores = target.score(rows, [TokenTree.chain(tokens[1], tokens[2:])])
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
    model = write_hf(tmp_path / "hf", "qwen3", dtype=dtype)
    target = open_target(tmp_path / "hf", tmp_path / "cache", kv="f32")
    np.testing.assert_allclose(all_logits(target, PROMPT), reference(model, PROMPT), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("tensor_type", ["Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0"])
def test_quantised_files_are_close(tensor_type: str, tmp_path: Path) -> None:
    """Weights are exact, activations rounded to 8 bit: the logits lose about a hundredth of their spread."""
    size = {"hidden_size": 256, "intermediate_size": 256} if tensor_type.endswith("K") else {}
    model = write_gguf(tmp_path / "model.gguf", "llama", tensor_type=tensor_type, **size)
    target = open_target(tmp_path / "model.gguf", tmp_path / "cache")
    ours, theirs = all_logits(target, PROMPT), reference(model, PROMPT)
    assert np.abs(ours - theirs).mean() < 0.02 * theirs.std()


@pytest.mark.parametrize(("quantize", "loss"), [("q8", 0.02), ("q4", 0.25)])
def test_quantised_at_load(quantize: str, loss: float, tmp_path: Path) -> None:
    model = write_hf(tmp_path / "hf", "llama")
    target = open_target(tmp_path / "hf", tmp_path / "cache", quantize=quantize)
    ours, theirs = all_logits(target, PROMPT), reference(model, PROMPT)
    assert 1e-6 < np.abs(ours - theirs).mean() < loss * theirs.std()


def test_taps_are_the_hidden_states_of_transformers(tmp_path: Path) -> None:
    model = write_hf(tmp_path / "hf", "llama")
    target = open_target(tmp_path / "hf", tmp_path / "cache", kv="f32", taps=[0, 1])
    rows, _ = target.prefill([PROMPT[:1]])
    scores = target.score(rows, [TokenTree.chain(PROMPT[1], PROMPT[2:])])
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
