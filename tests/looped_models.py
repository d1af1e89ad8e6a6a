"""Tiny random looped models as folders, and their logits by plain arithmetic on the tensors.

The arithmetic is written out in torch, in f64 and without a cache, and shares nothing with the models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from outpace.targets.hf_looped_model import LoopedForCausalLM, OuroForCausalLM
from tests.fake_models import BOS_ID, EOS_ID, VOCAB_SIZE, write_tokenizer

NAMES = ["looped", "looped_norms", "looped_sandwich", "ouro"]

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "pad_token_id": VOCAB_SIZE - 1,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
}
_LOOPED = _BASE | {"model_type": "outpace_looped", "architectures": ["LoopedForCausalLM"]}
# config.json as the Ouro models have it: rotary base outside of a table, layer types spelt out.
_OURO = _BASE | {
    "model_type": "ouro",
    "architectures": ["OuroForCausalLM"],
    "num_key_value_heads": 4,
    "total_ut_steps": 4,
    "early_exit_threshold": 1.0,
    "layer_types": ["full_attention"] * 2,
    "max_window_layers": 2,
    "rope_scaling": None,
    "rope_theta": 1_000_000.0,
    "sliding_window": None,
    "use_sliding_window": False,
}
LOOPED: dict[str, dict[str, Any]] = {
    "looped": _LOOPED | {"num_loops": 3},
    "looped_norms": _LOOPED
    | {"num_loops": 2, "loop_norm": True, "tie_word_embeddings": True, "head_dim": 32},
    "looped_sandwich": _LOOPED | {"num_hidden_layers": 1, "num_loops": 4, "sandwich_norms": True},
    "looped_once": _LOOPED | {"num_loops": 1},
    "ouro": _OURO,
}


def write_looped(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """Writes a folder with config.json, random weights and a tokenizer; returns the configuration."""
    config = LOOPED[name] | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(_tensors(config), folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder)
    return config


def loop_logits(folder: Path, tokens: list[int]) -> Tensor:
    """f64[R, T, V]: for every loop the logits after every token, from the folder's files."""
    config = json.loads((folder / "config.json").read_text())
    tensors = {name: t.double() for name, t in load_file(folder / "model.safetensors").items()}
    ouro = config["model_type"] == "ouro"
    num_loops = config["total_ut_steps"] if ouro else config["num_loops"]
    output = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    state, found = tensors["model.embed_tokens.weight"][tokens], []
    for _ in range(num_loops):
        for layer in range(config["num_hidden_layers"]):
            state = _layer(config, tensors, f"model.layers.{layer}.", state)
        normed = _norm(config, tensors["model.norm.weight"], state)
        found.append(normed @ output.T)
        if ouro or config.get("loop_norm"):
            state = normed
    return torch.stack(found)


def _layer(config: dict[str, Any], tensors: dict[str, Tensor], at: str, state: Tensor) -> Tensor:
    def norm(name: str, values: Tensor) -> Tensor:
        weight = tensors.get(f"{at}{name}.weight")
        return values if weight is None else _norm(config, weight, values)

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ tensors[f"{at}{name}.weight"].T

    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    num = len(state)
    x = norm("input_layernorm", state)
    q = _turned(config, linear("self_attn.q_proj", x).view(num, heads, dim))
    k = _turned(config, linear("self_attn.k_proj", x).view(num, groups, dim))
    v = linear("self_attn.v_proj", x).view(num, groups, dim)
    k, v = (one.repeat_interleave(heads // groups, dim=1) for one in (k, v))
    weights = torch.einsum("ihd,jhd->hij", q, k) / dim**0.5
    weights = weights.masked_fill(torch.ones(num, num).triu(1).bool(), -torch.inf).softmax(-1)
    attended = torch.einsum("hij,jhd->ihd", weights, v).reshape(num, heads * dim)
    state = state + norm("input_layernorm_2", linear("self_attn.o_proj", attended))
    x = norm("post_attention_layernorm", state)
    gate = linear("mlp.gate_proj", x)
    fed = linear("mlp.down_proj", gate * torch.sigmoid(gate) * linear("mlp.up_proj", x))
    return state + norm("post_attention_layernorm_2", fed)


def _turned(config: dict[str, Any], heads: Tensor) -> Tensor:
    half = heads.shape[-1] // 2
    base = config.get("rope_theta", 10_000.0)
    angles = torch.arange(len(heads))[:, None] * base ** -(torch.arange(half) / half)
    cos, sin = angles.double().cos()[:, None], angles.double().sin()[:, None]
    first, second = heads[..., :half], heads[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _norm(config: dict[str, Any], weight: Tensor, state: Tensor) -> Tensor:
    return weight * state / (state.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt()


def _tensors(config: dict[str, Any]) -> dict[str, Tensor]:
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
    dim = config.get("head_dim") or hidden // heads
    shapes: dict[str, tuple[int, ...]] = {"embed_tokens.weight": (vocab, hidden), "norm.weight": (hidden,)}
    ouro = config["model_type"] == "ouro"
    for layer in range(config["num_hidden_layers"]):
        at = f"layers.{layer}."
        sizes: dict[str, tuple[int, ...]] = {
            "self_attn.q_proj": (heads * dim, hidden),
            "self_attn.k_proj": (groups * dim, hidden),
            "self_attn.v_proj": (groups * dim, hidden),
            "self_attn.o_proj": (hidden, heads * dim),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        shapes |= {f"{at}{name}.weight": shape for name, shape in sizes.items()}
        norms = ["input_layernorm", "post_attention_layernorm"]
        if ouro or config.get("sandwich_norms"):
            norms += [f"{name}_2" for name in norms]
        shapes |= {f"{at}{name}.weight": (hidden,) for name in norms}
    if ouro:
        shapes |= {"early_exit_gate.weight": (1, hidden), "early_exit_gate.bias": (1,)}
    named = {f"model.{name}": shape for name, shape in shapes.items()}
    if not config["tie_word_embeddings"]:
        named["lm_head.weight"] = (vocab, hidden)
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in named.items():
        noise = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            tensors[name] = 1 + 0.2 * noise
        else:
            tensors[name] = noise * (0.3 if "embed" in name else shape[1] ** -0.5)
    return tensors


def model_of(folder: Path) -> Any:
    """The model of a folder in torch. The folder has one of these names."""
    kind = OuroForCausalLM if folder.name == "ouro" else LoopedForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()
