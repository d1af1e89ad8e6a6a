"""ModelConfig from the metadata of a GGUF file.

Reference for the keys: ggml-org/ggml docs/gguf.md and ggml-org/llama.cpp gguf-py/gguf/constants.py. Mistral
files carry the architecture "llama".
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
from outpace.files.quants import widen
from outpace.files.raw import RawTensors
from outpace.files.rope import BASES, FACTORS, rope_table

_GGUF_ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3")
_GEMMA3_LOCAL_BASE = 10000.0
_GEMMA3_PATTERN = 6
_GEMMA3_27B_LAYERS = 62
_MAX_WINDOW = 1 << 30  # one that no context reaches is none


def config_from_gguf(metadata: dict[str, Any], source: RawTensors) -> ModelConfig:
    """The configuration of a GGUF model; FormatError where a key is missing or its value impossible."""
    architecture = metadata.get("general.architecture")
    if architecture not in _GGUF_ARCHITECTURES:
        raise unknown_architecture(architecture, _GGUF_ARCHITECTURES)
    if metadata.get("split.count", 0) not in (0, 1):
        raise FormatError("the model is split over several GGUF files; merge them into one first")
    keys = _Keys(metadata, architecture)
    if keys.get("expert_count"):
        raise FormatError("mixture-of-experts models are not supported")
    embed = source.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise FormatError("the file has no matrix 'token_embd.weight'")

    _check_vocabulary(keys, embed.shape[0])
    num_layers = keys.size("num_layers", "block_count")
    hidden_size = keys.size("hidden_size", "embedding_length")
    num_heads = keys.size("num_heads", "attention.head_count")
    head_dim = keys.size("head_dim", "attention.key_length", hidden_size // num_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.size("head_dim", key, head_dim) != head_dim:
            raise FormatError(f"{architecture}.{key} differs from the head size {head_dim}: not supported")
    gemma = architecture == "gemma3"
    window, is_local = _windows(keys, num_layers, gemma)
    tables, scales = _rope_tables(keys, head_dim, source, gemma)
    scale_dim = hidden_size // num_heads if gemma and num_layers == _GEMMA3_27B_LAYERS else head_dim
    return ModelConfig(
        architecture=architecture,
        vocab_size=embed.shape[0],
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=keys.size("num_kv_heads", "attention.head_count_kv", num_heads),
        head_dim=head_dim,
        intermediate_size=keys.size("intermediate_size", "feed_forward_length"),
        context_length=keys.size("context_length", "context_length"),
        rms_eps=keys.number("attention.layer_norm_rms_epsilon", RANGES["rms_eps"]),
        activation="gelu_tanh" if gemma else "silu",
        attention_scale=keys.number("attention.scale", RANGES["attention_scale"], scale_dim**-0.5),
        embedding_scale=math.sqrt(hidden_size) if gemma else 1.0,
        rope_inv_freq=tables,
        rope_scale=scales,
        layer_rope=tuple(int(gemma and local) for local in is_local),
        layer_window=tuple(window if local else 0 for local in is_local),
        tie_embeddings="output.weight" not in source.tensors,
    )


class _Keys:
    """Typed access to the keys `<architecture>.<name>`."""

    def __init__(self, metadata: dict[str, Any], architecture: str) -> None:
        self.metadata = metadata
        self.architecture = architecture

    def get(self, name: str) -> Any:
        return self.metadata.get(f"{self.architecture}.{name}")

    def shown(self, name: str) -> str:
        return f"metadata {self.architecture}.{name}"

    def size(self, field: str, name: str, default: int | None = None) -> int:
        """The key of a field of ModelConfig; a list of one number per layer counts when all are equal."""
        value = self.get(name)
        if isinstance(value, list) and value and value.count(value[0]) == len(value):
            value = value[0]
        return whole_number(self.shown(name), default if value is None else value, LIMITS[field])

    def number(self, name: str, bounds: tuple[float, float], default: float | None = None) -> float:
        value = self.get(name)
        return number(self.shown(name), default if value is None else value, *bounds)


def _check_vocabulary(keys: _Keys, num_rows: int) -> None:
    """No token without a row of the matrix."""
    tokens = keys.metadata.get("tokenizer.ggml.tokens")
    if isinstance(tokens, list) and len(tokens) > num_rows:
        raise FormatError(
            f"tokenizer.ggml.tokens has {len(tokens)} entries; token_embd.weight has {num_rows} rows"
        )
    if keys.get("vocab_size") is not None:
        whole_number(keys.shown("vocab_size"), keys.get("vocab_size"), num_rows)


def _windows(keys: _Keys, num_layers: int, gemma: bool) -> tuple[int, list[bool]]:
    """The window size, and for each layer whether it is local (has that window)."""
    given = keys.get("attention.sliding_window")
    window = whole_number(keys.shown("attention.sliding_window"), given or 0, _MAX_WINDOW, least=0)
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) != num_layers or not all(local in (0, 1) for local in pattern):
            raise FormatError(
                f"the sliding window pattern is {brief(pattern)}; accepted: a truth value for each of "
                f"{num_layers} layers"
            )
        return window, [bool(local) and window > 0 for local in pattern]
    if not gemma:
        return window, [window > 0] * num_layers
    if pattern is None:
        pattern = _GEMMA3_PATTERN
    whole_number(keys.shown("attention.sliding_window_pattern"), pattern, LIMITS["num_layers"])
    if window < 1:
        raise FormatError("a gemma3 file needs a positive gemma3.attention.sliding_window")
    return window, [(i + 1) % pattern != 0 for i in range(num_layers)]


def _rope_tables(
    keys: _Keys, head_dim: int, source: RawTensors, gemma: bool
) -> tuple[tuple[np.ndarray, ...], tuple[float, ...]]:
    base = keys.number("rope.freq_base", BASES, 1_000_000.0 if gemma else 10000.0)
    context_length = keys.size("context_length", "context_length")
    table, scale = rope_table(head_dim, base, scaling=_scaling(keys), context_length=context_length)
    factors = source.tensors.get("rope_freqs.weight")
    if factors is not None:
        if factors.shape != (head_dim // 2,) or factors.type_name != "F32":
            raise FormatError(
                f"rope_freqs.weight is {factors.type_name}{factors.shape}, not F32({head_dim // 2},)"
            )
        divisors = widen("F32", source.rows(factors))[0]
        if not (np.isfinite(divisors).all() and (divisors > 0).all()):
            raise FormatError("rope_freqs.weight holds numbers that are not positive")
        with np.errstate(over="ignore"):  # an infinite frequency is refused with the configuration
            table = table / divisors
    if not gemma:
        return (table,), (scale,)
    local_base = keys.number("rope.freq_base_swa", BASES, _GEMMA3_LOCAL_BASE)
    local, local_scale = rope_table(head_dim, local_base, context_length=context_length)
    return (table, local), (scale, local_scale)


def _scaling(keys: _Keys) -> dict[str, Any] | None:
    """GGUF's rope.scaling.* keys under the names of `rope_table`."""
    kind = keys.get("rope.scaling.type")
    factor = keys.number("rope.scaling.factor", FACTORS, keys.number("rope.scale_linear", FACTORS, 0.0))
    if kind == "none" or not factor:  # an absent factor means no scaling, whatever the type
        return None
    if kind in (None, "linear"):
        return {"rope_type": "linear", "factor": factor}
    scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        original = keys.get("rope.scaling.original_context_length")
        scaling["original_max_position_embeddings"] = original
        for name, key in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
            scaling[name] = keys.get(f"rope.scaling.{key}")
        extra = keys.number("rope.scaling.attn_factor", FACTORS, 1.0)
        if extra != 1.0:
            scaling["attention_factor"] = extra * (1 + 0.1 * math.log(max(factor, 1.0)))
    return scaling
