"""Folders of looped models: what they say of loops, which tensors they need, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file, save_file  # noqa: E402

from outpace.core.errors import FormatError  # noqa: E402
from outpace.files import open_model, unpack  # noqa: E402
from outpace.files.config_hf import config_from_hf  # noqa: E402
from tests.looped_models import LOOPED, write_looped  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("name", "architecture", "layers", "loops", "loop_norm"),
    [
        ("looped", "looped", 2, 3, False),
        ("looped_norms", "looped", 2, 2, True),
        ("looped_sandwich", "ouro", 1, 4, False),
        ("looped_once", "looped", 2, 1, False),
        ("ouro", "ouro", 2, 4, True),
    ],
)
def test_loops_are_an_order(name: str, architecture: str, layers: int, loops: int, loop_norm: bool) -> None:
    config = config_from_hf(LOOPED[name])
    assert (config.architecture, config.num_layers) == (architecture, layers * loops)
    assert (config.num_loops, config.loop_norm) == (loops, loop_norm)
    assert config.layer_order == (tuple(range(layers)) * loops if loops > 1 else ())


def test_what_is_left_out_has_the_defaults_of_the_classes() -> None:
    from outpace.targets.hf_looped_model import LoopedConfig, OuroConfig

    sizes: dict[str, Any] = {
        "vocab_size": 300,
        "hidden_size": 512,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
    }
    sizes |= {"num_attention_heads": 32}
    for kind in (LoopedConfig, OuroConfig):
        theirs, ours = kind(**sizes), config_from_hf({"model_type": kind.model_type, **sizes})
        assert ours.num_loops == theirs.num_loops and ours.loop_norm == theirs.loop_norm
        assert ours.num_kv_heads == theirs.num_key_value_heads
        assert ours.context_length == theirs.max_position_embeddings
        assert ours.rms_eps == theirs.rms_norm_eps and ours.tie_embeddings == theirs.tie_word_embeddings


def test_windows_of_ouro_are_the_same_in_every_loop() -> None:
    change: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 8}
    types = ["full_attention", "sliding_attention"]
    assert config_from_hf(LOOPED["ouro"] | change | {"layer_types": types}).layer_window == (0, 8) * 4
    by_number = change | {"layer_types": None, "max_window_layers": 1}
    assert config_from_hf(LOOPED["ouro"] | by_number).layer_window == (0, 8) * 4
    assert config_from_hf(LOOPED["ouro"] | {"sliding_window": 8}).layer_window == (0, 0) * 4


@pytest.mark.parametrize("name", LOOPED)
def test_weights_are_packed_once_for_all_loops(name: str, tmp_path: Path) -> None:
    config = write_looped(tmp_path / "model", name)
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    weights = open_model(tmp_path / "model").weights
    last = config["num_hidden_layers"] - 1
    for ours, theirs in {
        "q": "self_attn.q_proj",
        "down": "mlp.down_proj",
        "attn_norm": "input_layernorm",
        "post_attn_norm": "input_layernorm_2",
        "ffn_norm": "post_attention_layernorm",
        "post_ffn_norm": "post_attention_layernorm_2",
    }.items():
        expected = tensors.get(f"model.layers.{last}.{theirs}.weight")
        found = weights.tensors.get(f"layers.{last}.{ours}")
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert (unpack(found, weights.buffer) == expected.numpy()).all()
    assert not any(key.startswith((f"layers.{last + 1}.", "early")) for key in weights.tensors)


@pytest.mark.parametrize("value", [0, 65, -1, 2.5, 3.0, "3", True, [4], 10**400])
@pytest.mark.parametrize(("name", "key"), [("looped", "num_loops"), ("ouro", "total_ut_steps")])
def test_impossible_numbers_of_loops(name: str, key: str, value: Any) -> None:
    with pytest.raises(
        FormatError, match=rf"config.json: {key} is .*; accepted: a whole number from 1 to 64"
    ):
        config_from_hf(LOOPED[name] | {key: value})


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ouro", {"early_exit_threshold": 0.5}, r"early_exit_threshold is 0\.5; accepted: 1"),
        ("ouro", {"early_exit_threshold": 0}, "early_exit_threshold is 0; accepted: 1"),
        ("ouro", {"early_exit_threshold": "1.0"}, r"early_exit_threshold is '1\.0'; accepted: 1"),
        ("ouro", {"layer_types": ["full_attention"] * 8}, "layer_types has to name all 2 layers"),
        ("looped", {"layer_types": ["full_attention"]}, "layer_types has to name all 2 layers"),
        ("ouro", {"layer_types": ["full_attention", "mamba"]}, "accepted: full_attention, sliding_attention"),
        ("looped", {"loop_norm": 1}, "loop_norm is 1; accepted: true, false"),
        ("looped", {"sandwich_norms": "yes"}, "sandwich_norms is 'yes'; accepted: true, false"),
        ("looped", {"num_hidden_layers": 100, "num_loops": 64}, "num_layers is 6400; accepted"),
        ("looped", {"model_type": "looper"}, "'looper' is not supported; accepted: llama.*ouro"),
    ],
)
def test_refusals(name: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        config_from_hf(LOOPED[name] | change)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ouro", {"num_hidden_layers": 3, "layer_types": None}, r"'layers\.2\.attn_norm' is missing"),
        ("ouro", {"num_hidden_layers": 1, "layer_types": None}, "has no place in a model of 1 layers"),
        ("looped", {"num_hidden_layers": 6, "num_loops": 1}, r"'layers\.2\.attn_norm' is missing"),
        ("looped", {"sandwich_norms": True}, r"'layers\.0\.post_attn_norm' is missing"),
        ("looped_sandwich", {"sandwich_norms": False}, "input_layernorm_2.*belongs to no supported"),
        ("ouro", {"num_key_value_heads": 2}, r"'layers\.0\.k' has shape"),
    ],
)
def test_tensors_that_do_not_fit(name: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = write_looped(tmp_path, name)
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(FormatError, match=message):
        open_model(tmp_path)


def test_the_gate_is_left_out_and_one_norm_is_not(tmp_path: Path) -> None:
    write_looped(tmp_path, "ouro")
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    assert "model.early_exit_gate.weight" in tensors
    del tensors["model.layers.1.post_attention_layernorm_2.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"'layers\.1\.post_ffn_norm' is missing"):
        open_model(tmp_path)
