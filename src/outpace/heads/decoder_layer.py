"""Decoder layers in folders of heads: their tensors, by the names that checkpoints have, and how they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError
from outpace.core.layers import Floats, LayerSpec
from outpace.files.rope import BASES, rope_table
from outpace.heads.folder import HeadConfig, Tensors


class LayerConfig(Protocol):
    """What the layers of a folder are: silu, and rotary positions as in transformers.

    qkv_bias  whether there are biases. qk_norm: norms of queries and keys, by heads.
    """

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def rms_eps(self) -> float: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def rope_scaling(self) -> Mapping[str, Any] | None: ...
    @property
    def rope_length(self) -> int: ...
    @property
    def qkv_bias(self) -> bool: ...
    @property
    def qk_norm(self) -> bool: ...


def layer_shapes(c: LayerConfig, stem: str, input_width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a layer whose attention reads so much, without norms before that.

    stem  of the layer's names, with a dot.
    """
    d, wide, q, kv = c.hidden_size, c.intermediate_size, c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    attention = stem + "self_attn."
    found: dict[str, tuple[int, ...]] = {
        attention + "q_proj.weight": (q, input_width),
        attention + "k_proj.weight": (kv, input_width),
        attention + "v_proj.weight": (kv, input_width),
        attention + "o_proj.weight": (d, q),
        stem + "mlp.gate_proj.weight": (wide, d),
        stem + "mlp.up_proj.weight": (wide, d),
        stem + "mlp.down_proj.weight": (d, wide),
        stem + "post_attention_layernorm.weight": (d,),
    }
    if c.qkv_bias:
        sizes = {"q": q, "k": kv, "v": kv}
        found |= {f"{attention}{name}_proj.bias": (size,) for name, size in sizes.items()}
    if c.qk_norm:
        found |= {f"{attention}{name}_norm.weight": (c.head_dim,) for name in "qk"}
    return found


def layer_spec(
    c: LayerConfig, t: Tensors, stem: str, input_width: int, *, context_length: int, window: int = 0
) -> LayerSpec:
    """The layer as the engine takes it."""
    attention, (inv_freq, scale) = stem + "self_attn.", rope(c)
    biases = {f"{n}_bias": t[f"{attention}{n}_proj.bias"] for n in "qkv" if c.qkv_bias}
    norms = {f"{n}_norm": t[f"{attention}{n}_norm.weight"] for n in "qk" if c.qk_norm}
    return LayerSpec(
        hidden_size=c.hidden_size, input_width=input_width, num_heads=c.num_heads,
        num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, intermediate_size=c.intermediate_size,
        context_length=context_length, rms_eps=c.rms_eps, rope_inv_freq=inv_freq, rope_scale=scale,
        matrices={
            **{n: t[f"{attention}{n}_proj.weight"] for n in "qkvo"},
            **{n: t[f"{stem}mlp.{n}_proj.weight"] for n in ("gate", "up", "down")},
        },
        vectors={"ffn_norm": t[stem + "post_attention_layernorm.weight"], **biases, **norms},
        window=window,
    )  # fmt: skip


def rope(c: LayerConfig) -> tuple[NDArray[np.float32], float]:
    """(inverse frequencies f32[head_dim / 2], factor for cosine and sine)."""
    scaling = None if c.rope_scaling is None else dict(c.rope_scaling)
    return rope_table(c.head_dim, c.rope_theta, scaling=scaling, context_length=c.rope_length)


def layer_fields(found: HeadConfig) -> dict[str, Any]:
    """The fields of a config.json that say what its layers are, all but the flags."""
    sizes: dict[str, Any] = {
        name: found.size(name) for name in ("hidden_size", "intermediate_size", "rope_length")
    }
    scaling = found.field("rope_scaling")
    if scaling is not None and not isinstance(scaling, dict):
        raise found.fault("rope_scaling", "expected an object, or null")
    return {
        **sizes,
        **found.heads_of_attention(),
        "rms_eps": found.number("rms_eps", 1e-20, 1.0),
        "rope_theta": found.number("rope_theta", *BASES),
        "rope_scaling": scaling,
    }


def taps_field(found: HeadConfig) -> tuple[str, ...]:
    """The taps that a config.json names."""
    taps = found.field("taps")
    if not isinstance(taps, list) or not taps or not all(isinstance(t, str) and t for t in taps):
        raise found.fault("taps", "expected one or more names of taps: layers by number, or final")
    return tuple(taps)


def flag_field(found: HeadConfig, name: str) -> bool:
    """true or false."""
    value = found.field(name)
    if type(value) is not bool:
        raise found.fault(name, "accepted are true and false")
    return value


def check_rope(c: LayerConfig, where: object) -> None:
    """A FormatError that names the folder or file, if the rotary positions are of no known kind."""
    try:
        rope(c)
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from None


def normed(x: Floats, weight: Floats, eps: float) -> Floats:
    """f32[n, D] behind an RMSNorm."""
    squares = np.mean(x * x, axis=1, keepdims=True)
    found: Floats = x / np.sqrt(squares + np.float32(eps)) * weight
    return found
