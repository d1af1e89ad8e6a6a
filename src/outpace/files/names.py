"""Canonical tensor names, their shapes, and the names that GGUF and Hugging Face give to the same tensors.

Canonical: embed, output (absent where tied), final_norm, and layers.{i}.NAME with the names of
`layer_shapes`.
"""

from __future__ import annotations

import re

from outpace.core.errors import FormatError
from outpace.files.config import ModelConfig

_GGUF_TOP = {"token_embd.weight": "embed", "output.weight": "output", "output_norm.weight": "final_norm"}
_GGUF_LAYER = {
    "attn_norm.weight": "attn_norm",
    "attn_q.weight": "q",
    "attn_k.weight": "k",
    "attn_v.weight": "v",
    "attn_output.weight": "o",
    "attn_q.bias": "q_bias",
    "attn_k.bias": "k_bias",
    "attn_v.bias": "v_bias",
    "attn_q_norm.weight": "q_norm",
    "attn_k_norm.weight": "k_norm",
    "post_attention_norm.weight": "post_attn_norm",
    "ffn_norm.weight": "ffn_norm",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
    "post_ffw_norm.weight": "post_ffn_norm",
}
_HF_TOP = {"embed_tokens.weight": "embed", "lm_head.weight": "output", "norm.weight": "final_norm"}
_HF_LAYER = {
    "input_layernorm.weight": "attn_norm",
    "self_attn.q_proj.weight": "q",
    "self_attn.k_proj.weight": "k",
    "self_attn.v_proj.weight": "v",
    "self_attn.o_proj.weight": "o",
    "self_attn.q_proj.bias": "q_bias",
    "self_attn.k_proj.bias": "k_bias",
    "self_attn.v_proj.bias": "v_bias",
    "self_attn.q_norm.weight": "q_norm",
    "self_attn.k_norm.weight": "k_norm",
    "mlp.gate_proj.weight": "gate",
    "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
}
_HF_NORMS_PRE = {"post_attention_layernorm.weight": "ffn_norm"}
_HF_NORMS_GEMMA = {
    "post_attention_layernorm.weight": "post_attn_norm",
    "pre_feedforward_layernorm.weight": "ffn_norm",
    "post_feedforward_layernorm.weight": "post_ffn_norm",
}
_HF_NORMS_OURO = _HF_NORMS_PRE | {
    "input_layernorm_2.weight": "post_attn_norm",
    "post_attention_layernorm_2.weight": "post_ffn_norm",
}
_HF_NORMS = {"gemma3": _HF_NORMS_GEMMA, "ouro": _HF_NORMS_OURO}
# Tables that are computed from the configuration, the parts of multimodal models that text does not need, and
# the gate by which Ouro's tokens could leave early.
_IGNORED = re.compile(
    r"rope_freqs\.weight|.*\brotary_emb\.inv_freq|blk\.\d+\.attn_rot_embd\.weight"
    r"|(model\.)?(vision_tower|multi_modal_projector)\..*|(model\.)?early_exit_gate\.(weight|bias)"
)
_GGUF_LAYER_NAME = re.compile(r"blk\.(0|[1-9]\d{0,4})\.(.+)")
_HF_LAYER_NAME = re.compile(r"layers\.(0|[1-9]\d{0,4})\.(.+)")

MATRICES = frozenset({"embed", "output", "q", "k", "v", "o", "gate", "up", "down"})
_OPTIONAL = frozenset({"q_bias", "k_bias", "v_bias", "q_norm", "k_norm", "post_attn_norm", "post_ffn_norm"})
_NEEDED_BY = {
    "qwen2": frozenset({"q_bias", "k_bias", "v_bias"}),
    "qwen3": frozenset({"q_norm", "k_norm"}),
    "gemma3": frozenset({"q_norm", "k_norm", "post_attn_norm", "post_ffn_norm"}),
    "ouro": frozenset({"post_attn_norm", "post_ffn_norm"}),
}


def canonical_from_gguf(name: str) -> str | None:
    """The canonical name of a GGUF tensor, None for an unneeded one; FormatError for an unknown one."""
    if name in _GGUF_TOP:
        return _GGUF_TOP[name]
    match = _GGUF_LAYER_NAME.fullmatch(name)
    if match and match[2] in _GGUF_LAYER:
        return f"layers.{match[1]}.{_GGUF_LAYER[match[2]]}"
    _check_ignored(name)
    return None


def canonical_from_hf(name: str, architecture: str) -> str | None:
    """As `canonical_from_gguf`, for the tensors of a Hugging Face model, also inside a multimodal one."""
    text_name = name.replace("language_model.", "", 1).removeprefix("model.")
    if text_name in _HF_TOP:
        return _HF_TOP[text_name]
    match = _HF_LAYER_NAME.fullmatch(text_name)
    if match:
        leaf = (_HF_LAYER | _HF_NORMS.get(architecture, _HF_NORMS_PRE)).get(match[2])
        if leaf is not None:
            return f"layers.{match[1]}.{leaf}"
    _check_ignored(name)
    return None


def _check_ignored(name: str) -> None:
    if not _IGNORED.fullmatch(name):
        raise FormatError(f"tensor {name!r} belongs to no supported architecture")


def layer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors that a layer can have, (out_features, in_features) or (length,)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    return {
        "attn_norm": (hidden,),
        "q": (q, hidden),
        "k": (kv, hidden),
        "v": (kv, hidden),
        "o": (hidden, q),
        "q_bias": (q,),
        "k_bias": (kv,),
        "v_bias": (kv,),
        "q_norm": (config.head_dim,),
        "k_norm": (config.head_dim,),
        "post_attn_norm": (hidden,),
        "ffn_norm": (hidden,),
        "gate": (inner, hidden),
        "up": (inner, hidden),
        "down": (hidden, inner),
        "post_ffn_norm": (hidden,),
    }


def check_tensors(config: ModelConfig, shapes: dict[str, tuple[int, ...]]) -> None:
    """Checks canonical names and shapes; FormatError for a missing, misshapen or surplus tensor."""
    expected: dict[str, tuple[int, ...]] = {
        "embed": (config.vocab_size, config.hidden_size),
        "final_norm": (config.hidden_size,),
    }
    if not config.tie_embeddings:
        expected["output"] = (config.vocab_size, config.hidden_size)
    per_layer = layer_shapes(config)
    optional = _OPTIONAL - _NEEDED_BY.get(config.architecture, frozenset())
    layers = sorted({*config.layer_order}) or range(config.num_layers)
    for i in layers:
        for leaf, shape in per_layer.items():
            name = f"layers.{i}.{leaf}"
            if leaf not in optional or name in shapes:
                expected[name] = shape
    for name, shape in expected.items():
        if name not in shapes:
            raise FormatError(f"tensor {name!r} is missing")
        if shapes[name] != shape:
            raise FormatError(f"tensor {name!r} has shape {shapes[name]}; the configuration needs {shape}")
    if extra := sorted(shapes.keys() - expected.keys()):
        raise FormatError(f"tensor {extra[0]!r} has no place in a model of {len(layers)} layers")
