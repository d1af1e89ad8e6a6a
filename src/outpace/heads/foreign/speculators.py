"""The config.json that speculators writes and vLLM reads, of layers of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.files.safetensors_writer import TensorBytes
from outpace.heads.dflash import DFlashConfig
from outpace.heads.eagle import EagleConfig
from outpace.heads.foreign.eagle import IDS

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
# vLLM takes an EAGLE-3 layer to read three states unless its layer's config says otherwise; ids do not count.
NUM_TAPS, USUAL_TAPS = "num_aux_hidden_states", 3
SPECULATIVE_TOKENS = 4  # that another engine drafts, where nobody tells it; the depth of our own default tree
TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
Tensors = Mapping[str, TensorBytes]


def eagle3_config(
    config: EagleConfig, vocab_size: int, tensors: Tensors, verifier: Mapping[str, Any]
) -> dict[str, Any]:
    """Of an EAGLE-3 layer; OutpaceError for what there is no field for."""
    if config.fc_bias:
        raise OutpaceError("fc_bias is true, accepted is false: an EAGLE-3 layer of speculators has none")
    ids = _ids(config.taps)
    layer = layer_config(config, vocab_size, tensors) | {"attention_bias": config.qkv_bias}
    if len(ids) != USUAL_TAPS:
        layer[NUM_TAPS] = len(ids)
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": config.num_tokens,
        "norm_before_residual": config.norm_before_residual,
        "norm_before_fc": config.norm_before_fc,
        "fc_norm": config.fc_norm,
        "norm_output": config.norm_output,
        IDS: ids,
        **_common(layer),
        "speculators_config": _proposals("eagle3", SPECULATIVE_TOKENS, verifier),
    }


def dflash_config(config: DFlashConfig, tensors: Tensors, verifier: Mapping[str, Any]) -> dict[str, Any]:
    """Of DFlash's layers, or DSpark's; OutpaceError for what there is no field for."""
    sliding = [window > 0 for window in config.windows]
    both_ways = any(sliding) and not any(config.causal)
    if [*config.causal] != [slides and not both_ways for slides in sliding]:
        raise OutpaceError(
            f"causal is {_said(config.causal)}; accepted are true for the layers with a window and false for "
            "others, or false for all"
        )
    windows = {window for window in config.windows if window}
    if len(windows) > 1:
        raise OutpaceError(f"windows are {_said(config.windows)}; accepted are 0 and one size")
    if config.num_tokens == config.vocab_size:
        raise OutpaceError(
            f"all {config.vocab_size} tokens are drafted by a matrix of the layers' own, accepted are fewer "
            "tokens, or the target's matrix"
        )
    is_dspark = config.from_root or config.markov != "none"
    layer = layer_config(config, config.vocab_size, tensors) | {
        "num_hidden_layers": config.num_layers,
        "attention_bias": config.qkv_bias,
        "layer_types": ["sliding_attention" if slides else "full_attention" for slides in sliding],
        "use_sliding_window": any(sliding),
        "sliding_window": max(windows, default=None),
    }
    markov = {
        "markov_rank": config.rank,
        "markov_head_type": "vanilla" if config.markov == "none" else config.markov,
        "enable_confidence_head": False,
        "confidence_head_with_markov": False,
    }
    name = "dspark" if is_dspark else "dflash"
    return {
        "architectures": ["DSparkSpeculator" if is_dspark else "DFlashSpeculator"],
        "speculators_model_type": name,
        "draft_vocab_size": config.num_tokens or config.vocab_size,
        "block_size": config.block_size,
        "mask_token_id": config.mask_token_id,
        "sample_from_anchor": config.from_root,
        "sliding_window_non_causal": both_ways,
        "aux_hidden_state_layer_ids": _ids(config.taps),
        **(markov if is_dspark else {}),
        **_common(layer),
        "speculators_config": _proposals(name, config.length, verifier),
    }


def layer_config(config: EagleConfig | DFlashConfig, vocab_size: int, tensors: Tensors) -> dict[str, Any]:
    """A Llama's or Qwen's config of one layer."""
    return {
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 1,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "max_position_embeddings": config.rope_length,
        "torch_dtype": TORCH_TYPES[tensors["fc.weight"].type_name],
    }


def verifier_of(name: str, architecture: str) -> dict[str, Any]:
    """The target: what others call it, and its architecture, one of ours or ""."""
    classes = [CLASSES[architecture]] if architecture in CLASSES else []
    return {"name_or_path": name, "architectures": classes}


def _ids(taps: tuple[str, ...]) -> list[int]:
    """Numbers of the layers that read what is tapped."""
    if "final" in taps:
        raise OutpaceError(
            f"taps are {', '.join(taps)}; accepted are layers by number: others cannot read final"
        )
    ids = [int(tap) + 1 for tap in taps]
    if ids != sorted(set(ids)):
        raise OutpaceError(f"taps are {', '.join(taps)}; accepted are ascending ones: others read them so")
    return ids


def _common(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "target_hidden_size": None,
        "tie_word_embeddings": False,
        "torch_dtype": layer["torch_dtype"],
        "transformer_layer_config": dict(layer),
    }


def _proposals(algorithm: str, tokens: int, verifier: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "default_proposal_method": "greedy",
        "proposal_methods": [
            {
                "proposal_type": "greedy",
                "speculative_tokens": tokens,
                "verifier_accept_k": 1,
                "accept_tolerance": 0.0,
            }
        ],
        "verifier": dict(verifier),
    }


def _said(values: tuple[object, ...]) -> str:
    return ", ".join(str(value).lower() for value in values)
