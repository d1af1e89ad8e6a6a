"""The transformers models that can be a target, and the facts that a target needs of one.

A target scores trees and keeps a path of one: its state must be keys and values per token, its attention must
take a mask and positions. A model that cannot do that is refused by name. Model types that the tests run are
accepted as they are; any other is tried first (`HfCausalTarget`).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.core.options import number

TESTED = (
    "cohere",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo2",
    "opt",
    "outpace_looped",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
)
ATTENTION = ("eager", "sdpa")
SCALES = (
    "logit_scale",
    "logits_scaling",
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
    "query_pre_attn_scalar",
)
"""Numbers that configurations multiply and divide by; beyond LEAST and MOST, scores are no numbers."""
LEAST, MOST = 1e-6, 1e6
LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The facts that a target needs of its model.

    windows       the sliding window, or None, of each kind of layer; masks are passed under these names, or
                  as one mask where there is one kind.
    picks_logits  whether the model can leave out logits that nobody wants.
    """

    name: str
    vocab_size: int
    num_layers: int
    context_length: int
    eos_ids: frozenset[int]
    windows: dict[str, int | None]
    picks_logits: bool


def inspect_model(model: Any) -> ModelFacts:
    """The facts of a model; an OutpaceError, which names the model type, if it cannot be a target."""
    config = model.config.get_text_config(decoder=True)
    name: str = config.model_type
    plain = getattr(model, "_orig_mod", model)  # under torch.compile
    parameters = inspect.signature(plain.forward).parameters
    why = _why_not(plain, config, parameters)
    if why is not None:
        raise OutpaceError(
            f"the model type {name!r} cannot be a target: {why}; tested are {', '.join(TESTED)}, "
            "and decoders like them are accepted"
        )
    _check_scales(config)
    check_mode(model)
    head = model.get_output_embeddings()
    listed = getattr(model.generation_config, "eos_token_id", None)
    eos_ids = [] if listed is None else listed if isinstance(listed, list) else [listed]
    return ModelFacts(
        name=name,
        vocab_size=config.vocab_size if head is None else head.weight.shape[0],
        num_layers=config.num_hidden_layers,
        context_length=_context_length(config),
        eos_ids=frozenset(map(int, eos_ids)),
        windows=_windows(config),
        picks_logits="logits_to_keep" in parameters,
    )


def _check_scales(config: Any) -> None:
    accepted = f"numbers from {LEAST:g} to {MOST:g}"
    for name in SCALES:
        value = getattr(config, name, None)
        if value is not None:
            number(f"the model's {name}", value, lambda scale: LEAST <= scale <= MOST, accepted)


def check_mode(model: Any, vocab_size: int | None = None) -> None:
    """OutpaceError for a model whose layers leave values out at random, or with another vocabulary by now."""
    if model.training:
        raise OutpaceError("the model is in training mode, accepted is model.eval()")
    head = model.get_output_embeddings()
    if vocab_size is not None and head is not None and (now := head.weight.shape[0]) != vocab_size:
        raise OutpaceError(
            f"the model has {now} tokens now and had {vocab_size}, accepted is a target made anew"
        )


def _context_length(config: Any) -> int:
    """Longrope turns all keys otherwise once a call goes beyond the original length: so far, no further."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    places: int = getattr(config, "max_position_embeddings", None) or 2**20
    if rope.get("rope_type", rope.get("type")) != "longrope":
        return places
    original = rope.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return min(places, original or places)


def _why_not(model: Any, config: Any, parameters: Any) -> str | None:
    if config.is_encoder_decoder or getattr(model.config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    others = sorted(set(_layer_types(config)) - set(LAYER_TYPES))
    if others:
        return f"its layers of type {', '.join(others)} cannot go back to an earlier token"
    if getattr(model, "_is_stateful", False):
        return "its state is recurrent and cannot go back to an earlier token"
    if "past_key_values" not in parameters:
        return "it keeps no keys and values between calls"
    if "position_ids" not in parameters or getattr(config, "alibi", False):
        return (
            "its attention takes positions from the order of the tokens (ALiBi), which a tree does not have"
        )
    if "local" in getattr(config, "attention_layers", ()):
        return "its local layers count tokens, not positions"
    attention = config._attn_implementation
    if attention not in ATTENTION:
        return f"attn_implementation={attention!r} takes no tree mask, accepted are {', '.join(ATTENTION)}"
    return None


def _layer_types(config: Any) -> list[str]:
    listed = getattr(config, "layer_types", None)
    if listed is not None:
        return list(listed)
    if getattr(config, "attention_chunk_size", None) is not None:
        return ["chunked_attention"]
    return ["full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"]


def _windows(config: Any) -> dict[str, int | None]:
    return {
        kind: config.sliding_window if kind == "sliding_attention" else None
        for kind in sorted(set(_layer_types(config)))
    }
