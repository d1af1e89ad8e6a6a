"""Heads of ours in the layouts of others, for their engines: every weight keeps its bits.

    an EAGLE-3 layer     speculators' layout, with d2t and t2d where not all tokens are drafted
    an EAGLE-1, 2 layer  its authors' layout, without the target's embedding
    Medusa heads         vLLM's layout, which is ours without the fields that others do not know

A speculators layer whose queries have a bias has one behind the attention too; ours has none, and zeros are
written there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.raw import RawTensors
from outpace.files.safetensors_writer import ITEM_BYTES, TensorBytes, bytes_of
from outpace.heads.dflash import METHOD as DFLASH
from outpace.heads.eagle import METHOD as EAGLE
from outpace.heads.eagle import EagleConfig
from outpace.heads.file import read_token_ids
from outpace.heads.foreign.doctor import own_faults
from outpace.heads.foreign.eagle import IDS, OUTPUT_BIAS
from outpace.heads.foreign.layout import brief_faults
from outpace.heads.foreign.recognise import recognise
from outpace.heads.foreign.taking import check_new, write_heads
from outpace.heads.medusa import METHOD as MEDUSA
from outpace.heads.medusa import MedusaConfig
from outpace.progress import Progress

EXPORTED = f"{EAGLE}, {MEDUSA}"
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
}
# What an engine has to be told, or refuses; as measured with vLLM 0.32.
SOME_TOKENS = (
    "vLLM 0.32 reads heads of some tokens with --model-loader-extra-config "
    "'{\"enable_weights_track\": false}' alone"
)
OWN_OF_SOME = (
    "vLLM 0.32 reads no heads of some tokens with output matrices of their own; accepted are those of "
    "outpace train medusa with --outputs shared or --tokens 0"
)
OURS = ("target", "model")  # fields that others do not know
SPECULATIVE_TOKENS = 4  # that another engine drafts, where nobody tells it; the depth of our own default tree
# vLLM takes an EAGLE-3 layer to read three states unless its layer's config says otherwise; ids do not count.
NUM_TAPS, USUAL_TAPS = "num_aux_hidden_states", 3
TORCH_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, slots=True)
class Given:
    """What was written, and what there is to know of it."""

    what: str
    notes: tuple[str, ...] = ()


def give_out(
    folder: str | Path,
    output: Path,
    *,
    target_name: str = "",
    vocab_size: int = 0,
    architecture: str = "",
    progress: Progress | None = None,
) -> Given:
    """Write a folder of another layout from one of ours; returns what that is.

    output        a new folder, or an empty one.
    target_name   what others call the model; "" for the name in the folder.
    vocab_size    V of the model, 0 for what the folder says.
    architecture  of the model, one of ours; "" where it is not known.

    FormatError where the folder is damaged; OutpaceError for heads that no other layout holds.
    """
    found = recognise(folder)
    if not found.method:
        raise FormatError(f"{found.folder} is no folder of Outpace, accepted are heads of {EXPORTED}")
    if found.method not in (EAGLE, MEDUSA):
        why = "which no other engine reads"
        if found.method == DFLASH:
            why = "which came from others, whose folder is what they read"
        raise FormatError(
            f"{found.folder} holds heads of the method {found.method!r}, {why}; accepted are {EXPORTED}"
        )
    config, weights, faults = own_faults(found)
    if faults:
        raise FormatError(f"{found.folder}: {brief_faults(faults)}")
    assert isinstance(config, EagleConfig | MedusaConfig), "the methods that are given out"
    if vocab_size and config.vocab_size not in (0, vocab_size):
        raise FormatError(
            f"{found.folder} is for a model of {config.vocab_size} tokens and this one has {vocab_size}; "
            "accepted is its own model"
        )
    check_new(output)
    tensors = {name: _as_it_is(weights, name) for name in weights.tensors}
    if isinstance(config, MedusaConfig):
        fields = {name: value for name, value in asdict(config).items() if name not in OURS}
        write_heads(output, {"model_type": MEDUSA} | fields, tensors, progress)
        return Given("Medusa heads, vLLM's layout", _medusa_notes(config))
    vocab_size = vocab_size or config.vocab_size
    if not vocab_size:
        raise OutpaceError(
            f"{found.folder} does not say how many tokens its model has; accepted is --model MODEL beside it"
        )
    if not config.is_third:
        write_heads(output, original_config(config, vocab_size, tensors), tensors, progress)
        return Given("EAGLE-1 or 2 layer, original layout")
    ids = read_token_ids(found.folder, weights)
    assert ids is not None, "own_faults has read them"
    if ids[-1] >= vocab_size:
        raise FormatError(f"{found.folder} drafts the token {ids[-1]}, accepted are 0 to {vocab_size - 1}")
    fields = speculators_config(config, vocab_size, tensors, target_name or config.model, architecture)
    del tensors["token_ids"]
    if config.qkv_bias:
        kind = tensors[OUTPUT_BIAS.replace("o_proj", "q_proj")].type_name
        zeros = np.zeros(config.hidden_size * ITEM_BYTES[kind], np.uint8)
        tensors[OUTPUT_BIAS] = TensorBytes(kind, (config.hidden_size,), zeros)
    if len(ids) < vocab_size:
        tensors["d2t"] = bytes_of(ids.astype(np.int64) - np.arange(len(ids)), "I64")
        drafted = np.zeros(vocab_size, np.bool_)
        drafted[ids] = True
        tensors["t2d"] = bytes_of(drafted, "BOOL")
    write_heads(output, fields, tensors, progress)
    return Given("EAGLE-3 layer, speculators layout")


def speculators_config(
    config: EagleConfig,
    vocab_size: int,
    tensors: dict[str, TensorBytes],
    target_name: str,
    architecture: str,
) -> dict[str, Any]:
    """The config.json of speculators; OutpaceError for what it has no field for."""
    if config.fc_bias:
        raise OutpaceError("fc_bias is true, accepted is false: an EAGLE-3 layer of speculators has none")
    if "final" in config.taps:
        raise OutpaceError(
            f"taps are {', '.join(config.taps)}; accepted are layers by number: others cannot read final"
        )
    ids = [int(tap) + 1 for tap in config.taps]
    if ids != sorted(set(ids)):
        raise OutpaceError(
            f"taps are {', '.join(config.taps)}; accepted are ascending ones: others read them so"
        )
    layer = _layer_config(config, vocab_size, tensors) | {"attention_bias": config.qkv_bias}
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
        "target_hidden_size": None,
        "tie_word_embeddings": False,
        "torch_dtype": layer["torch_dtype"],
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [
                {
                    "proposal_type": "greedy",
                    "speculative_tokens": SPECULATIVE_TOKENS,
                    "verifier_accept_k": 1,
                    "accept_tolerance": 0.0,
                }
            ],
            "verifier": {
                "name_or_path": target_name,
                "architectures": [CLASSES[architecture]] if architecture in CLASSES else [],
            },
        },
    }


def original_config(config: EagleConfig, vocab_size: int, tensors: dict[str, TensorBytes]) -> dict[str, Any]:
    """The config.json of EAGLE's authors."""
    layer = _layer_config(config, vocab_size, tensors)
    return {
        "architectures": ["LlamaForCausalLM"],
        **layer,
        "bias": config.fc_bias,
        "qkv_bias": config.qkv_bias,
    }


def _medusa_notes(config: MedusaConfig) -> tuple[str, ...]:
    if config.truncated_vocab_size == config.vocab_size:
        return ()
    return (SOME_TOKENS if config.original_lm_head else OWN_OF_SOME,)


def _layer_config(config: EagleConfig, vocab_size: int, tensors: dict[str, TensorBytes]) -> dict[str, Any]:
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


def _as_it_is(weights: RawTensors, name: str) -> TensorBytes:
    tensor = weights.tensors[name]
    return TensorBytes(tensor.type_name, tensor.shape, weights.rows(tensor))
