"""ModelConfig from the config.json of a Hugging Face folder.

Absent keys have the defaults of transformers' configuration classes, because files on the hub leave them out.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.config import (
    LIMITS,
    RANGES,
    ModelConfig,
    brief,
    number,
    unknown_architecture,
    whole_number,
)
from outpace.files.rope import BASES, rope_table

_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
    "qwen2": {"max_position_embeddings": 32768, "num_key_value_heads": 32, "sliding_window": 4096},
    "qwen3": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
    },
    "gemma3": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "max_position_embeddings": 131072,
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": True,
    },
    "looped": {"max_position_embeddings": 2048, "num_loops": 2},
    "ouro": {
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "total_ut_steps": 4,
        "early_exit_threshold": 1.0,
    },
}
_COMMON_DEFAULTS = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_window_layers": 28,
}
_RENAMED = {"gemma3_text": "gemma3", "outpace_looped": "looped"}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh"}
_MAX_WINDOW = 1 << 30  # one that no context reaches is none
_MAX_LOOPS = 64
_GEMMA3_BASES = {"full_attention": 1_000_000.0, "sliding_attention": 10_000.0}


def config_from_hf(config: dict[str, Any]) -> ModelConfig:
    """The configuration of a Hugging Face model; FormatError for a missing key or an impossible value."""
    family = config.get("model_type")
    text = config.get("text_config")
    if family == "gemma3" and isinstance(text, dict):
        tie = config.get("tie_word_embeddings", True)
        config = {"tie_word_embeddings": tie, **text}
    if not isinstance(family, str) or (family := _RENAMED.get(family, family)) not in _DEFAULTS:
        raise unknown_architecture(family, [*_DEFAULTS, *_RENAMED])
    if config.get("quantization_config") is not None:
        raise FormatError(
            "pre-quantised Hugging Face weights are not read; accepted: f32, bf16, f16 (or a GGUF file)"
        )
    given = {key: value for key, value in config.items() if value is not None or key == "sliding_window"}
    keys = _Keys(_COMMON_DEFAULTS | _DEFAULTS[family] | given)
    gemma = family == "gemma3"
    for name in ("final_logit_softcapping", "attn_logit_softcapping", "use_bidirectional_attention"):
        if keys.values.get(name):
            raise FormatError(f"config.json: {name} is not supported")

    num_layers = keys.size("num_layers", "num_hidden_layers")
    loops, loop_norm, sandwich = _loops(keys, family, num_layers)
    hidden_size = keys.size("hidden_size", "hidden_size")
    num_heads = keys.size("num_heads", "num_attention_heads")
    head_dim = keys.size("head_dim", "head_dim", hidden_size // num_heads)
    act = keys.values["hidden_activation" if gemma else "hidden_act"]
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        raise FormatError(f"activation {brief(act)} is not supported; accepted: {', '.join(_ACTIVATIONS)}")
    window, is_local = _windows(keys, family, num_layers)
    tables, scales = _rope_tables(keys, head_dim, gemma)
    scale_dim = keys.number("query_pre_attn_scalar", (1e-3, 1e9)) if gemma else float(head_dim)
    return ModelConfig(
        architecture="ouro" if sandwich else family,  # what tells them apart is which norms they have
        vocab_size=keys.size("vocab_size", "vocab_size"),
        hidden_size=hidden_size,
        num_layers=num_layers * loops,
        num_heads=num_heads,
        num_kv_heads=keys.size("num_kv_heads", "num_key_value_heads", num_heads),
        head_dim=head_dim,
        intermediate_size=keys.size("intermediate_size", "intermediate_size"),
        context_length=keys.size("context_length", "max_position_embeddings"),
        rms_eps=keys.number("rms_norm_eps", RANGES["rms_eps"]),
        activation=_ACTIVATIONS[act],
        attention_scale=scale_dim**-0.5,
        embedding_scale=math.sqrt(hidden_size) if gemma else 1.0,
        rope_inv_freq=tables,
        rope_scale=scales,
        layer_rope=tuple(int(gemma and local) for local in is_local) * loops,
        layer_window=tuple(window if local else 0 for local in is_local) * loops,
        tie_embeddings=keys.flag("tie_word_embeddings"),
        layer_order=tuple(range(num_layers)) * loops if loops > 1 else (),
        loop_norm=loop_norm and loops > 1,
    )


class _Keys:
    """Typed access to the configuration."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def size(self, field: str, name: str, default: int | None = None) -> int:
        """The key of a field of ModelConfig, within its limits."""
        return whole_number(f"config.json: {name}", self.values.get(name, default), LIMITS[field])

    def number(self, name: str, bounds: tuple[float, float], default: float | None = None) -> float:
        return number(f"config.json: {name}", self.values.get(name, default), *bounds)

    def flag(self, name: str) -> bool:
        value = self.values.get(name, False)
        if not isinstance(value, bool):
            raise FormatError(f"config.json: {name} is {brief(value)}; accepted: true, false")
        return value

    def table(self, name: str) -> dict[str, Any]:
        value = self.values.get(name, {})
        if not isinstance(value, dict):
            raise FormatError(f"config.json: {name} is {brief(value)}; accepted: an object")
        return value


def _loops(keys: _Keys, family: str, num_layers: int) -> tuple[int, bool, bool]:
    """How often all layers run, whether the last norm stands between loops, and one behind each block too."""
    if family == "ouro":
        name, norms = "total_ut_steps", (True, True)
        if keys.values["early_exit_threshold"] != 1:
            given = brief(keys.values["early_exit_threshold"])
            raise FormatError(
                f"config.json: early_exit_threshold is {given}; accepted: 1 (none leaves early)"
            )
    elif family == "looped":
        name, norms = "num_loops", (keys.flag("loop_norm"), keys.flag("sandwich_norms"))
    else:
        return 1, False, False
    _layer_types(keys, num_layers)
    return whole_number(f"config.json: {name}", keys.values[name], _MAX_LOOPS), *norms


def _layer_types(keys: _Keys, num_layers: int) -> list[str] | None:
    types = keys.values.get("layer_types")
    if types is None:
        return None
    if not isinstance(types, list) or len(types) != num_layers:
        raise FormatError(f"config.json: layer_types has to name all {num_layers} layers")
    if not all(kind in ("full_attention", "sliding_attention") for kind in types):
        raise FormatError("config.json: layer_types; accepted: full_attention, sliding_attention")
    return types


def _windows(keys: _Keys, family: str, num_layers: int) -> tuple[int, list[bool]]:
    """The window size, and for each layer whether it is local (has that window)."""
    window = keys.values.get("sliding_window")
    if family in ("qwen2", "qwen3", "ouro") and not keys.flag("use_sliding_window"):
        window = None
    if family in ("llama", "looped") or window is None:
        return 0, [False] * num_layers
    window = whole_number("config.json: sliding_window", window, _MAX_WINDOW)
    if family == "mistral":
        return window, [True] * num_layers
    types = _layer_types(keys, num_layers)
    if types is not None:
        return window, [kind == "sliding_attention" for kind in types]
    if family == "gemma3":
        pattern = keys.size("num_layers", "sliding_window_pattern")
        return window, [(i + 1) % pattern != 0 for i in range(num_layers)]
    given = keys.values["max_window_layers"]
    first_local = whole_number("config.json: max_window_layers", given, LIMITS["num_layers"], least=0)
    return window, [i >= first_local for i in range(num_layers)]


def _rope_tables(keys: _Keys, head_dim: int, gemma: bool) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
    """The global table and, for Gemma 3, the local one.

    The current spelling is `rope_parameters` (per layer type for Gemma 3) with `rope_theta` inside; the older
    one is `rope_theta`, `rope_local_base_freq` and `rope_scaling` (global only).
    """
    context_length = keys.size("context_length", "max_position_embeddings")
    parameters = keys.table("rope_parameters")
    flat = {
        "rope_theta": keys.values.get("rope_theta"),
        "partial_rotary_factor": keys.values.get("partial_rotary_factor"),
    } | (keys.table("rope_scaling") or parameters)
    if not gemma:
        made = [_table(flat, 10000.0, head_dim, context_length)]
    else:
        local: dict[str, Any] = {"rope_theta": keys.values.get("rope_local_base_freq")}
        if "full_attention" in parameters or "sliding_attention" in parameters:
            flat = parameters.get("full_attention") or {}
            local = parameters.get("sliding_attention") or {}
        made = [
            _table(flat, _GEMMA3_BASES["full_attention"], head_dim, context_length),
            _table(local, _GEMMA3_BASES["sliding_attention"], head_dim, context_length),
        ]
    return tuple(table for table, _ in made), tuple(scale for _, scale in made)


def _table(parameters: Any, base: float, head_dim: int, context_length: int) -> tuple[np.ndarray, float]:
    if not isinstance(parameters, dict):
        raise FormatError(f"config.json: rotary parameters are {brief(parameters)}; accepted: an object")
    if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise FormatError("config.json: partial_rotary_factor is not supported; accepted: 1.0")
    given = _Keys({name: value for name, value in parameters.items() if value is not None})
    return rope_table(
        head_dim, given.number("rope_theta", BASES, base), scaling=parameters, context_length=context_length
    )
