"""What the layouts of decoder layers have in common: a layer's fields, drafted tokens, the target's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.raw import RawTensors
from outpace.files.rope import BASES
from outpace.heads.folder import HEAD_STEP, MAX_SIZE
from outpace.heads.foreign.fields import Fields
from outpace.heads.foreign.layout import Wanted, in_order, is_zero, said, whole_numbers

MOST_TAPS = 16
EMBEDDING = "embed_tokens.weight"
IN_ORDER = "drafted tokens are not in order: they are sorted, with their rows"


def layer_values(layer: Fields, names: Mapping[str, str], stem: str) -> dict[str, Any]:
    """Fields of ours from a Llama's or Qwen's config, and from which biases and norms a layer has.

    stem  of the layer's names, with a dot.
    """
    layer.one_of("hidden_act", ("silu", "swish"))
    hidden_size, num_heads = layer.size("hidden_size"), layer.size("num_attention_heads")
    num_kv_heads = layer.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise layer.fault("num_key_value_heads", f"are divisors of num_attention_heads, {num_heads}")
    head_dim = layer.size("head_dim", hidden_size // num_heads)
    if head_dim % HEAD_STEP or head_dim > 512:
        raise FormatError(
            f"{layer.path}: a head's width is {head_dim}, accepted are multiples of {HEAD_STEP} up to 512"
        )
    name = "rope_scaling" if layer.table("rope_scaling") else "rope_parameters"
    scaling = layer.table(name)
    if any(isinstance(value, dict) for value in scaling.values()):
        raise layer.fault(name, "is one object for all layers")
    within = Fields(layer.path, scaling, "rope_scaling.")
    within.one_of("partial_rotary_factor", (1, 1.0))
    theta = within.number("rope_theta", layer.number("rope_theta", 10000.0, *BASES), *BASES)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    kept = {name: value for name, value in scaling.items() if name != "rope_theta"}
    attention = f"{stem}self_attn."
    has_bias = f"{attention}q_proj.bias" in names
    return {
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_size": layer.size("intermediate_size"),
        "rms_eps": layer.number("rms_norm_eps", 1e-6, 1e-20, 1.0),
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else kept,
        "rope_length": min(layer.size("max_position_embeddings", 2048, 1 << 40), MAX_SIZE),
        "qkv_bias": layer.flag("attention_bias") or layer.flag("qkv_bias") or has_bias,
        "qk_norm": layer.get("model_type") == "qwen3" or f"{attention}q_norm.weight" in names,
    }


def tapped_layers(holder: Fields, name: str, least: int) -> tuple[str, ...]:
    """Taps from a field with layers whose outputs are read; number `least` stands for that of layer 0."""
    ids = holder.get(name)
    if (
        not isinstance(ids, list)
        or not 1 <= len(ids) <= MOST_TAPS
        or not all(type(one) is int and least <= one <= MAX_SIZE for one in ids)
        or ids != sorted(set(ids))
    ):
        raise holder.fault(name, f"are 1 to {MOST_TAPS} ascending numbers of layers, {least} or more")
    return tuple(str(one - least) for one in ids)


def drafted(
    count: int, vocab_size: int, names: Mapping[str, str], weights: RawTensors
) -> tuple[np.ndarray, np.ndarray | None]:
    """(token ids i64[M], ascending; the rows of the output matrix in that order, None as they lie).

    Of `count` tokens, by the tensors d2t and t2d; FormatError where these are wrong or missing.
    """
    if "d2t" not in names:
        if count < vocab_size:
            raise FormatError(f"the tensor d2t is missing, expected I64[{count}]")
        return np.arange(count), None
    tensor = weights.tensors[names["d2t"]]
    offsets = whole_numbers(weights, tensor, count)
    if offsets is None:
        raise FormatError(f"{said(tensor)}, expected I64[{count}]")
    # Out of this range no sum is a token, and it may not be a number of 64 bits.
    ids, rows = in_order(np.arange(count) + offsets.clip(-vocab_size - count, vocab_size), vocab_size)
    if "t2d" in names:
        mask = weights.tensors[names["t2d"]]
        if mask.type_name != "BOOL" or mask.shape != (vocab_size,) or mask.nbytes != vocab_size:
            raise FormatError(f"{said(mask)}, expected BOOL[{vocab_size}]")
        if not np.array_equal(np.flatnonzero(weights.rows(mask).reshape(-1)), ids):
            raise FormatError("t2d and d2t name different tokens")
    return ids, rows


def with_rows(wanted: Wanted, rows: np.ndarray) -> Wanted:
    """The same tensor, its rows in this order."""
    return Wanted(wanted.name, wanted.shape, rows)


def computed(names: Mapping[str, str]) -> list[str]:
    """Names in the file of what any reader computes for itself."""
    return [given for name, given in names.items() if name.endswith("rotary_emb.inv_freq")]


def zeros(weights: RawTensors | None, names: Mapping[str, str], ends: str) -> list[str]:
    """Names in the file of tensors with this end that hold nothing but zeros."""
    given = [one for name, one in names.items() if name.endswith(ends)]
    return [one for one in given if weights is not None and is_zero(weights, weights.tensors[one])]


def target_name(fields: Fields) -> str:
    """What the checkpoint calls its target."""
    verifier = fields.within("speculators_config").within("verifier")
    return verifier.text("name_or_path") or fields.text("base_model_name_or_path")
