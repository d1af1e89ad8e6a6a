"""Folders of heads as other projects write them: by their names and conventions, with torch's own writers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from outpace.heads.dflash import DFlashConfig
from outpace.heads.eagle import EagleConfig
from outpace.heads.folder import CONFIG, WEIGHTS
from tests.made_heads import random_tensors

VOCAB, WIDTH = 300, 64
DRAFTED = (3, 7, 20, 111, 4, 299, 250, 9)  # in the order of their rows, which is none
BF16 = torch.bfloat16
Change = Callable[[dict[str, Any], dict[str, Any]], None]


def torch_tensors(arrays: Mapping[str, np.ndarray], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Values that bf16 holds exactly, so that a reader in f32 sees what was meant."""
    rounded = {name: torch.from_numpy(values.copy()).to(BF16).to(dtype) for name, values in arrays.items()}
    return {name: tensor.contiguous() for name, tensor in rounded.items()}


def random_layer(
    config: EagleConfig | DFlashConfig, dtype: torch.dtype, seed: int = 0
) -> dict[str, torch.Tensor]:
    """The tensors of an EAGLE layer, or of DFlash's layers, of norms around 1."""
    arrays = random_tensors(config.shapes(), seed)
    for name, values in arrays.items():
        arrays[name] = 1 + values / 8 if "norm" in name else values * 2
    return torch_tensors(arrays, dtype)


def layer_config(config: EagleConfig | DFlashConfig, **more: Any) -> dict[str, Any]:
    """What a Llama's config.json says of such a layer."""
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB,
        "hidden_size": config.hidden_size, "num_hidden_layers": 1, "hidden_act": "silu",
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim, "intermediate_size": config.intermediate_size,
        "rms_norm_eps": config.rms_eps, "rope_theta": config.rope_theta, "rope_scaling": config.rope_scaling,
        "max_position_embeddings": config.rope_length, **more,
    }  # fmt: skip


def eagle_layer(generation: str, **options: Any) -> EagleConfig:
    """A layer of a target of width 64; its target and taps do not matter."""
    fields: dict[str, Any] = {
        "hidden_size": WIDTH, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 48,
        "taps": ("1", "3", "4") if generation == "eagle3" else ("final",), "target": "",
        "num_tokens": len(DRAFTED) if generation == "eagle3" else 0,
    }  # fmt: skip
    return EagleConfig(generation=generation, **fields | options)  # type: ignore[arg-type]


def maps(ids: Sequence[int], vocab_size: int = VOCAB) -> dict[str, torch.Tensor]:
    """d2t as offsets, t2d as a mask."""
    t2d = torch.zeros(vocab_size, dtype=torch.bool)
    t2d[list(ids)] = True
    return {"d2t": torch.tensor(ids) - torch.arange(len(ids)), "t2d": t2d}


def write(
    folder: Path, config: dict[str, Any], tensors: dict[str, Any], change: Change | None = None
) -> dict[str, Any]:
    """A folder, its config and tensors changed by `change` before. Returns the tensors."""
    if change is not None:
        change(config, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(tensors, folder / WEIGHTS)
    return tensors


def write_eagle1(
    folder: Path, *, dtype: torch.dtype = BF16, bias: bool = False, change: Change | None = None
) -> tuple[EagleConfig, dict[str, Any]]:
    """As yuhuili/EAGLE-*: with the target's embedding."""
    config = eagle_layer("eagle", fc_bias=bias)
    tensors = random_layer(config, dtype)
    tensors["embed_tokens.weight"] = torch.ones(VOCAB, WIDTH, dtype=dtype)
    write(folder, layer_config(config, bias=bias), tensors, change)
    return config, tensors


def write_eagle3(
    folder: Path,
    *,
    ids: Sequence[int] = DRAFTED,
    dtype: torch.dtype = BF16,
    layers: Sequence[int] | None = None,
    change: Change | None = None,
) -> tuple[EagleConfig, dict[str, Any]]:
    """As yuhuili/EAGLE3-*: midlayer, d2t, t2d, and no taps unless layers are named."""
    config = eagle_layer("eagle3", num_tokens=len(ids))
    layer = random_layer(config, dtype)
    tensors = {name.replace("layers.0.", "midlayer."): tensor for name, tensor in layer.items()} | maps(ids)
    more: dict[str, Any] = {"draft_vocab_size": len(ids)}
    if layers is not None:
        more["eagle_config"] = {"eagle_aux_hidden_state_layer_ids": list(layers)}
    write(folder, layer_config(config, **more), tensors, change)
    return config, layer


def write_speculators(
    folder: Path,
    *,
    ids: Sequence[int] = tuple(sorted(DRAFTED)),
    dtype: torch.dtype = BF16,
    layers: Sequence[int] = (2, 4, 5),
    change: Change | None = None,
    **options: Any,
) -> tuple[EagleConfig, dict[str, Any]]:
    """As speculators writes an EAGLE-3 layer, a Qwen3 layer where it has norms of queries and keys."""
    config = eagle_layer("eagle3", num_tokens=len(ids), **options)
    tensors = random_layer(config, dtype) | (maps(ids) if len(ids) < VOCAB else {})
    if config.qkv_bias:
        tensors["layers.0.self_attn.o_proj.bias"] = torch.zeros(WIDTH, dtype=dtype)
    flags = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
    fields = {
        "speculators_model_type": "eagle3", "draft_vocab_size": len(ids), "target_hidden_size": None,
        "eagle_aux_hidden_state_layer_ids": list(layers), **{name: getattr(config, name) for name in flags},
        "transformer_layer_config": layer_config(
            config, model_type="qwen3" if config.qk_norm else "llama", attention_bias=config.qkv_bias
        ),
        "speculators_config": {
            "algorithm": "eagle3", "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"name_or_path": "org/tiny", "architectures": ["LlamaForCausalLM"]},
        },
    }  # fmt: skip
    write(folder, fields, tensors, change)
    return config, tensors


def dflash_layers(**options: Any) -> DFlashConfig:
    """Two layers for a target of width 64 with the taps 1 and 4; they draft three tokens, of all."""
    fields: dict[str, Any] = {
        "hidden_size": WIDTH, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16, "intermediate_size": 48,
        "taps": ("1", "4"), "block_size": 4, "mask_token_id": 299, "causal": (False, False),
        "windows": (0, 0), "target": "", "vocab_size": VOCAB,
    }  # fmt: skip
    return DFlashConfig(**fields | options)


def qwen_config(config: DFlashConfig, **more: Any) -> dict[str, Any]:
    """What a Qwen3's config.json says of such layers."""
    kinds = ["sliding_attention" if window else "full_attention" for window in config.windows]
    fields = layer_config(config, architectures=["DFlashDraftModel"], model_type="qwen3")
    sliding = {"layer_types": kinds, "sliding_window": max(config.windows) or None}
    attention = {"attention_bias": config.qkv_bias, "num_hidden_layers": config.num_layers}
    return fields | sliding | attention | more


def markov_fields(config: DFlashConfig) -> dict[str, Any]:
    """Those of DSpark."""
    if config.markov == "none":
        return {"markov_rank": 0}
    return {"markov_rank": config.rank, "markov_head_type": config.markov}


def write_dflash(
    folder: Path, *, dtype: torch.dtype = BF16, change: Change | None = None, prefix: str = "", **options: Any
) -> tuple[DFlashConfig, dict[str, Any]]:
    """As z-lab/*-DFlash: a part of the fields in dflash_config."""
    config = dflash_layers(**options)
    tensors = random_layer(config, dtype)
    inner = {"mask_token_id": config.mask_token_id, "target_layer_ids": [int(tap) for tap in config.taps]}
    fields = qwen_config(config, block_size=config.block_size, dflash_config=inner, num_target_layers=8)
    write(folder, fields, {prefix + name: tensor for name, tensor in tensors.items()}, change)
    return config, tensors


def write_dspark(
    folder: Path, *, dtype: torch.dtype = BF16, change: Change | None = None, **options: Any
) -> tuple[DFlashConfig, dict[str, Any]]:
    """As DeepSpec writes them: with the target's matrices and a confidence head."""
    config = dflash_layers(**{"from_root": True, "markov": "vanilla", "rank": 16} | options)
    tensors = random_layer(config, dtype)
    beside = {
        "embed_tokens.weight": torch.ones(VOCAB, WIDTH, dtype=dtype),
        "lm_head.weight": torch.zeros(VOCAB, WIDTH, dtype=dtype),
        "confidence_head.proj.weight": torch.ones(1, WIDTH + config.rank, dtype=dtype),
        "confidence_head.proj.bias": torch.ones(1, dtype=dtype),
    }
    fields = qwen_config(
        config, architectures=["Qwen3DSparkModel"], block_size=config.block_size, num_anchors=512,
        mask_token_id=config.mask_token_id, target_layer_ids=[int(tap) for tap in config.taps],
        enable_confidence_head=True, confidence_head_with_markov=True, **markov_fields(config),
    )  # fmt: skip
    write(folder, fields, tensors | beside, change)
    return config, tensors


def write_block_speculators(
    folder: Path,
    *,
    ids: Sequence[int] = tuple(sorted(DRAFTED)),
    dtype: torch.dtype = BF16,
    dspark: bool = False,
    change: Change | None = None,
    said: Mapping[str, Any] | None = None,
    **options: Any,
) -> tuple[DFlashConfig, dict[str, Any]]:
    """As speculators writes DFlash's layers, or DSpark's; of all tokens without a matrix of their own."""
    usual = {"from_root": True, "markov": "gated", "rank": 16} if dspark else {}
    few = {"num_tokens": len(ids)} if len(ids) < VOCAB else {}
    config = dflash_layers(**usual | few | options)
    tensors = random_layer(config, dtype) | (maps(ids) if few else {})
    fields = {
        "speculators_model_type": "dspark" if dspark else "dflash", "block_size": config.block_size,
        "draft_vocab_size": len(ids), "target_hidden_size": None, "mask_token_id": config.mask_token_id,
        "aux_hidden_state_layer_ids": [int(tap) + 1 for tap in config.taps],
        "transformer_layer_config": qwen_config(config),
        "speculators_config": {
            "algorithm": "dflash", "default_proposal_method": "greedy", "proposal_methods": [],
            "verifier": {"name_or_path": "org/tiny", "architectures": ["LlamaForCausalLM"]},
        },
        **(markov_fields(config) if dspark else {}),
    }  # fmt: skip
    write(folder, fields | dict(said or {}), tensors, change)
    return config, tensors


def write_medusa(
    folder: Path, *, heads: int = 3, layers: int = 2, change: Change | None = None, said: int | None = None
) -> dict[str, Any]:
    """As FasterDecoding: {head}.{layer}.linear and an output matrix a head; medusa_lm_head.safetensors."""
    shapes: dict[str, tuple[int, ...]] = {}
    for head in range(heads):
        for layer in range(layers):
            shapes[f"{head}.{layer}.linear.weight"] = (WIDTH, WIDTH)
            shapes[f"{head}.{layer}.linear.bias"] = (WIDTH,)
        shapes[f"{head}.{layers}.weight"] = (VOCAB, WIDTH)
    tensors: dict[str, Any] = dict(torch_tensors(random_tensors(shapes, 1), torch.float16))
    config = {
        "medusa_num_heads": heads if said is None else said, "medusa_num_layers": layers,
        "base_model_name_or_path": "lmsys/tiny", "version": "2",
    }  # fmt: skip
    write(folder, config, tensors, change)
    (folder / WEIGHTS).rename(folder / "medusa_lm_head.safetensors")
    return tensors


def write_vllm_medusa(
    folder: Path,
    *,
    ids: Sequence[int] | None = None,
    shared: bool = False,
    bias: bool = True,
    whole_rows: bool = False,
    prefix: str = "",
    change: Change | None = None,
) -> dict[str, Any]:
    """As vLLM reads them; `whole_rows`: output matrices for all tokens, of which the map takes some."""
    rows = VOCAB if ids is None or whole_rows else len(ids)
    shapes: dict[str, tuple[int, ...]] = {}
    for head in range(3):
        shapes[f"blocks.{head}.layers.0.weight"] = (WIDTH, WIDTH)
        if bias:
            shapes[f"blocks.{head}.layers.0.bias"] = (WIDTH,)
        if head == 0 or not shared:
            shapes[f"lm_heads.{head}.weight"] = (rows, WIDTH)
    tensors: dict[str, Any] = dict(torch_tensors(random_tensors(shapes, 2), BF16))
    if ids is not None:
        tensors["token_map"] = torch.tensor(ids)
    config: dict[str, Any] = {
        "model_type": "medusa", "num_heads": 3, "num_hidden_layers": 1, "hidden_size": WIDTH,
        "vocab_size": VOCAB, "original_lm_head": shared,
    }  # fmt: skip
    if bias:
        config["medusa_fc_bias"] = True
    if ids is not None:
        config["truncated_vocab_size"] = len(ids)
    write(folder, config, {prefix + name: tensor for name, tensor in tensors.items()}, change)
    return tensors


def bits(folder: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every tensor of a folder: type, shape and bytes."""
    found = {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        found[name] = (str(tensor.dtype), tuple(tensor.shape), raw)
    return found


def bits_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The same of tensors in memory."""
    return {
        name: (
            str(tensor.dtype),
            tuple(tensor.shape),
            tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
        )
        for name, tensor in tensors.items()
    }


def config_in(folder: Path) -> dict[str, Any]:
    """Its config.json."""
    found: dict[str, Any] = json.loads((folder / CONFIG).read_text())
    return found
