"""Configurations against those of transformers, and refusals."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import FormatError
from outpace.files.config import ModelConfig
from outpace.files.config_gguf import config_from_gguf
from outpace.files.config_hf import config_from_hf
from outpace.files.gguf import GGUFFile
from outpace.files.rope import rope_table
from tests.fake_models import FAMILIES, make_model, write_gguf


def hf_json(family: str, **changes: Any) -> dict[str, Any]:
    return json.loads(make_model(family, **changes).config.to_json_string())


def rotary_tables(model: Any) -> list[tuple[np.ndarray, float]]:
    """(inverse frequencies, factor) of transformers, the global table first."""
    rotary = model.model.rotary_emb
    if hasattr(rotary, "inv_freq"):
        return [(rotary.inv_freq.numpy(), rotary.attention_scaling)]
    return [
        (getattr(rotary, f"{kind}_inv_freq").numpy(), getattr(rotary, f"{kind}_attention_scaling"))
        for kind in ("full_attention", "sliding_attention")
    ]


def check_against_transformers(config: ModelConfig, model: Any) -> None:
    theirs = model.config
    assert config.vocab_size == theirs.vocab_size
    assert config.hidden_size == theirs.hidden_size
    assert config.num_layers == theirs.num_hidden_layers
    assert config.num_heads == theirs.num_attention_heads
    assert config.num_kv_heads == theirs.num_key_value_heads
    assert config.intermediate_size == theirs.intermediate_size
    assert config.context_length == theirs.max_position_embeddings
    assert config.tie_embeddings == theirs.tie_word_embeddings
    assert math.isclose(config.rms_eps, theirs.rms_norm_eps, rel_tol=1e-6)
    for i, layer in enumerate(model.model.layers):
        attention = layer.self_attn
        assert config.head_dim == attention.head_dim
        assert math.isclose(config.attention_scale, attention.scaling, rel_tol=1e-6)
        window = getattr(attention, "sliding_window", None)
        if theirs.model_type == "mistral":
            window = theirs.sliding_window
        assert config.layer_window[i] == (window or 0)
        assert config.layer_rope[i] == int(theirs.model_type == "gemma3_text" and window is not None)
    for ours, scale, (table, factor) in zip(
        config.rope_inv_freq, config.rope_scale, rotary_tables(model), strict=True
    ):
        np.testing.assert_allclose(ours, table, rtol=2e-6)
        assert math.isclose(scale, factor, rel_tol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_hf_config_is_that_of_transformers(family: str) -> None:
    model = make_model(family)
    config = config_from_hf(json.loads(model.config.to_json_string()))
    check_against_transformers(config, model)
    gemma = family == "gemma3"
    assert config.activation == ("gelu_tanh" if gemma else "silu")
    assert config.embedding_scale == (8.0 if gemma else 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_config_is_that_of_transformers(tmp_path: Path, family: str) -> None:
    model = write_gguf(tmp_path / "model.gguf", family)
    file = GGUFFile(tmp_path / "model.gguf")
    config = config_from_gguf(file.metadata, file)
    check_against_transformers(config, model)
    assert config.activation == ("gelu_tanh" if family == "gemma3" else "silu")
    assert config.embedding_scale == (8.0 if family == "gemma3" else 1.0)


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
    "yarn with all": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
        "truncate": False,
    },
    "yarn factor": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.5,
    },
}


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("old_spelling", [False, True])
def test_rope_scalings_are_those_of_transformers(name: str, old_spelling: bool) -> None:
    model = make_model("llama", rope_parameters=ROPES[name] | {"rope_theta": 50000.0}, head_dim=64)
    fields = json.loads(model.config.to_json_string())
    if old_spelling:
        scaling = fields.pop("rope_parameters")
        fields["rope_theta"] = scaling.pop("rope_theta")
        scaling["type"] = scaling.pop("rope_type")
        fields["rope_scaling"] = scaling
    check_against_transformers(config_from_hf(fields), model)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_qwen_windows_begin_at_a_layer(family: str) -> None:
    changes = {
        "use_sliding_window": True,
        "sliding_window": 16,
        "max_window_layers": 1,
        "num_hidden_layers": 3,
    }
    model = make_model(family, **changes)
    fields = json.loads(model.config.to_json_string())
    check_against_transformers(config_from_hf(fields), model)
    assert config_from_hf(fields).layer_window == (0, 16, 16)
    del fields["layer_types"]  # older files have none
    assert config_from_hf(fields).layer_window == (0, 16, 16)
    assert config_from_hf(fields | {"use_sliding_window": False}).layer_window == (0, 0, 0)


def test_mistral_without_window() -> None:
    fields = hf_json("mistral", sliding_window=None)
    assert config_from_hf(fields).layer_window == (0, 0, 0)


def test_gemma3_of_the_hub() -> None:
    """The multimodal models' config.json leaves out what equals a default and spells ropes the old way."""
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    }
    config = config_from_hf({"model_type": "gemma3", "text_config": text, "vision_config": {}})
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.vocab_size) == (8, 4, 256, 262208)
    assert config.layer_window[:7] == (1024,) * 5 + (0, 1024) and config.layer_rope[:7] == (1,) * 5 + (0, 1)
    assert config.tie_embeddings and config.attention_scale == 1 / 16
    assert config.rope_inv_freq[0][0] == 1 / 8 and config.rope_inv_freq[1][0] == 1
    np.testing.assert_allclose(config.rope_inv_freq[0][-1] * 8, 1e6 ** -(254 / 256), rtol=1e-6)
    np.testing.assert_allclose(config.rope_inv_freq[1][-1], 1e4 ** -(254 / 256), rtol=1e-6)
    assert config.rope_scale == (1.0, 1.0) and config.embedding_scale == math.sqrt(2560)


@pytest.mark.parametrize(
    ("order", "change", "loops"),
    [
        ((), {}, 1),
        ((0, 1, 2, 3, 4, 5), {}, 1),
        ((0, 1, 2, 0, 1, 2), {}, 2),
        ((0, 1, 0, 1, 0, 1), {}, 3),
        ((0, 0, 0, 0, 0, 0), {}, 6),
        ((1, 0, 1, 0, 1, 0), {}, 1),
        ((1, 1, 1, 1, 1, 1), {}, 1),
        ((0, 1, 2, 3, 0, 1), {}, 1),
        ((0, 0, 1, 1, 2, 2), {}, 1),
        ((0, 1, 0, 1, 0, 1), {"layer_window": (0, 8) * 3}, 3),
        ((0, 1, 0, 1, 0, 1), {"layer_window": (0, 8, 8) * 2}, 1),
        ((0, 1, 2, 0, 1, 2), {"layer_window": (0, 8, 8) * 2}, 2),
        ((0, 1, 0, 1, 0, 1), {"layer_rope": (0, 0, 0, 1, 0, 1)}, 1),
    ],
)
def test_loops(order: tuple[int, ...], change: dict[str, Any], loops: int) -> None:
    config = config_from_hf(hf_json("llama", num_hidden_layers=6))
    tables, scales = config.rope_inv_freq * 2, config.rope_scale * 2
    config = replace(config, layer_order=order, rope_inv_freq=tables, rope_scale=scales, **change)
    assert config.num_loops == loops
    if loops > 1:
        fields = replace(config, loop_norm=True).to_json()
        assert ModelConfig.from_json(json.loads(json.dumps(fields))).loop_norm
    else:
        with pytest.raises(FormatError, match="loop_norm"):
            replace(config, loop_norm=True)


def test_files_that_were_packed_before_there_were_loops() -> None:
    fields = config_from_hf(hf_json("llama")).to_json()
    del fields["layer_order"], fields["loop_norm"]
    config = ModelConfig.from_json(fields)
    assert (config.layer_order, config.loop_norm, config.num_loops) == ((), False, 1)


def test_json_round_trip_is_exact() -> None:
    config = config_from_hf(hf_json("gemma3"))
    again = ModelConfig.from_json(json.loads(json.dumps(config.to_json())))
    assert again.to_json() == config.to_json()
    for ours, theirs in zip(again.rope_inv_freq, config.rope_inv_freq, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    "fields", [{}, {"architecture": "llama"}, config_from_hf(hf_json("llama")).to_json() | {"x": 1}]
)
def test_what_is_no_stored_config_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match="not a model configuration"):
        ModelConfig.from_json(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"head_dim": 1024}, "head_dim is 1024; accepted: a whole number from 1 to 512"),
        ({"head_dim": 24}, "head_dim is 24; accepted: multiples of 16"),
        ({"num_heads": 3}, "not a multiple of num_kv_heads"),
        ({"num_layers": True}, "num_layers is True"),
        (
            {"context_length": 1 << 30},
            "context_length is 1073741824; accepted: a whole number from 1 to 16777216",
        ),
        ({"rms_eps": float("nan")}, "rms_eps is nan"),
        ({"rms_eps": 1e-300}, "rms_eps is 1e-300; accepted: a number from 1e-20 to 1"),
        ({"rms_eps": 1e39}, "rms_eps"),
        ({"attention_scale": 0.0}, "attention_scale"),
        ({"attention_scale": 1e39}, "attention_scale"),
        ({"embedding_scale": math.inf}, "embedding_scale"),
        (
            {"architecture": "mamba"},
            "'mamba' is not supported; accepted: llama, mistral, qwen2, qwen3, gemma3",
        ),
        ({"activation": "relu"}, "'relu' is not known; accepted: silu, gelu_tanh"),
        ({"layer_window": (0,)}, "layer_window"),
        ({"layer_window": (0, -1, 0)}, "layer_window"),
        ({"layer_rope": (0, 1, 0)}, "layer_rope"),
        ({"rope_scale": ()}, "rope_scale"),
        ({"rope_scale": (math.inf,)}, "rope_scale is inf"),
        ({"rope_scale": (0.0,)}, "rope_scale"),
        ({"rope_inv_freq": (np.full(8, np.nan, np.float32),)}, "frequencies outside 0 to 1000"),
        ({"rope_inv_freq": (np.full(8, 1e30, np.float32),)}, "frequencies outside 0 to 1000"),
        ({"rope_inv_freq": (np.ones(3, np.float32),)}, "expected"),
        ({"loop_norm": True}, "loop_norm is true or false, and true only where all layers run several"),
        ({"loop_norm": True, "layer_order": (0, 1, 0)}, "loop_norm"),
        ({"loop_norm": 1, "layer_order": (0, 0, 0)}, "loop_norm"),
    ],
)
def test_impossible_values_are_refused(change: dict[str, Any], message: str) -> None:
    config = config_from_hf(hf_json("llama"))
    with pytest.raises(FormatError, match=message):
        replace(config, **change)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("llama", {"model_type": "mixtral"}, "'mixtral' is not supported; accepted: llama"),
        ("llama", {"model_type": ["llama"]}, "not supported"),
        ("llama", {"hidden_size": None}, "hidden_size is missing"),
        ("llama", {"hidden_size": "64"}, "hidden_size is '64'; accepted: a whole number from 1"),
        ("llama", {"hidden_size": 10**400}, "hidden_size is 1000"),
        ("llama", {"vocab_size": 1 << 25}, "vocab_size is 33554432"),
        ("llama", {"max_position_embeddings": 1 << 62}, "max_position_embeddings"),
        ("llama", {"rms_norm_eps": 1e-300}, "rms_norm_eps is 1e-300; accepted: a number from 1e-20 to 1"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ("llama", {"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ("llama", {"tie_word_embeddings": "false"}, "tie_word_embeddings is 'false'; accepted: true, false"),
        ("qwen2", {"use_sliding_window": 1}, "use_sliding_window is 1; accepted: true, false"),
        ("mistral", {"sliding_window": 1 << 40}, "sliding_window"),
        ("gemma3", {"query_pre_attn_scalar": 1e-300}, "query_pre_attn_scalar is 1e-300"),
        (
            "llama",
            {"rope_parameters": {"rope_theta": 1e300}},
            "rope_theta is 1e.300; accepted: a number from 1",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 1e-30}}, "factor is 1e-30"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 10**400}}, "factor is 1000"),
        ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu' is not supported; accepted: silu"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, "pre-quantised"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "longrope"}},
            "'longrope' is not supported; accepted: default",
        ),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "factor is None"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": 3}, "rope_parameters is 3; accepted: an object"),
        ("gemma3", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is not supported"),
        ("gemma3", {"use_bidirectional_attention": True}, "not supported"),
        ("gemma3", {"layer_types": ["full_attention"]}, "layer_types"),
        ("gemma3", {"layer_types": ["linear_attention"] * 7}, "accepted: full_attention, sliding_attention"),
    ],
)
def test_hf_refusals(family: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        config_from_hf(hf_json(family) | change)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "rwkv", "'rwkv' is not supported; accepted: llama"),
        ("general.architecture", None, "not supported"),
        ("split.count", 2, "several GGUF files"),
        ("llama.expert_count", 8, "mixture-of-experts"),
        (
            "llama.block_count",
            1 << 60,
            r"metadata llama\.block_count is 1152921504606846976; accepted: a whole number",
        ),
        ("llama.attention.head_count", [4, 2, 4], "head_count is .4, 2, 4.; accepted: a whole number"),
        ("llama.attention.head_count", 0, r"metadata llama\.attention\.head_count is 0"),
        ("llama.attention.value_length", 8, "value_length differs"),
        ("llama.rope.dimension_count", 8, "dimension_count differs"),
        ("llama.context_length", None, "context_length is missing"),
        ("llama.attention.layer_norm_rms_epsilon", "x", "accepted: a number"),
        (
            "llama.attention.layer_norm_rms_epsilon",
            1e-300,
            r"llama\.attention\.layer_norm_rms_epsilon is 1e-300",
        ),
        ("llama.attention.layer_norm_rms_epsilon", math.nan, "rms_epsilon is nan"),
        ("llama.attention.scale", 1e30, r"llama\.attention\.scale is 1e.30"),
        ("llama.attention.key_length", 20, "head_dim is 20|head size"),
        ("llama.embedding_length", 1 << 63, r"llama\.embedding_length is"),
        ("llama.vocab_size", 301, r"llama\.vocab_size is 301; accepted: a whole number from 1 to 300"),
        ("tokenizer.ggml.tokens", ["a"] * 301, r"tokens has 301 entries; token_embd\.weight has 300 rows"),
        ("llama.attention.sliding_window", 1 << 40, "sliding_window"),
        ("llama.attention.sliding_window_pattern", ["x"] * 3, "sliding window pattern"),
        ("llama.rope.scaling.factor", 1e30, r"rope\.scaling\.factor is 1e.30"),
        ("llama.rope.freq_base", 0.5, r"rope\.freq_base is 0\.5; accepted: a number from 1 to 1e.15"),
        ("llama.rope.freq_base", 1.0, "rotary base"),
        ("llama.attention.sliding_window_pattern", [True], "sliding window pattern"),
    ],
)
def test_gguf_refusals(tmp_path: Path, key: str, value: Any, message: str) -> None:
    write_gguf(tmp_path / "model.gguf", "llama")
    file = GGUFFile(tmp_path / "model.gguf")
    metadata = {name: v for name, v in (file.metadata | {key: value}).items() if v is not None}
    with pytest.raises(FormatError, match=message):
        config_from_gguf(metadata, file)


def test_gguf_rope_keys(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "llama")
    file = GGUFFile(tmp_path / "model.gguf")

    def table(**keys: Any) -> tuple[np.ndarray, float]:
        extra = {f"llama.rope.{name}": value for name, value in keys.items()}
        config = config_from_gguf(file.metadata | extra, file)
        return config.rope_inv_freq[0], config.rope_scale[0]

    plain = table()[0]
    np.testing.assert_array_equal(table(**{"scaling.type": "none", "scaling.factor": 2.0})[0], plain)
    np.testing.assert_array_equal(
        table(**{"scaling.factor": 2.0})[0], plain / 2
    )  # the type's default is linear
    np.testing.assert_array_equal(table(scale_linear=4.0)[0], plain / 4)
    yarn = {"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 128}
    inv_freq, scale = table(**yarn)
    expected = rope_table(
        16,
        10000.0,
        scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
        context_length=512,
    )
    np.testing.assert_array_equal(inv_freq, expected[0])
    assert scale == expected[1] == 1 + 0.1 * math.log(4)
    assert math.isclose(table(**yarn, **{"scaling.attn_factor": 0.5})[1], scale / 2)
    with pytest.raises(FormatError, match="'longrope' is not supported"):
        table(**{"scaling.type": "longrope", "scaling.factor": 4.0})
