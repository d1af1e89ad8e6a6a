"""The encoder-decoder models that can be a target, and the facts that a target needs of one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.targets.hf_models import ATTENTION, check_mode
from outpace.targets.hf_seq2seq_positions import Placing, find_placing
from outpace.targets.hf_whisper import spoken_ids

TESTED = ("bart", "m2m_100", "marian", "mbart", "mt5", "outpace_looped_marian", "pegasus", "t5", "whisper")
_NEEDED = ("encoder_outputs", "decoder_input_ids", "decoder_attention_mask", "past_key_values")


@dataclass(frozen=True, slots=True)
class Seq2SeqFacts:
    """The facts that a target needs of its model.

    width    of the encoder's output.
    placing  how the decoder is told positions.
    """

    name: str
    vocab_size: int
    num_layers: int
    context_length: int
    eos_ids: frozenset[int]
    width: int
    placing: Placing


def inspect_seq2seq(model: Any) -> Seq2SeqFacts:
    """The facts of a model; an OutpaceError, which names the model type, if it cannot be a target."""
    config = model.config
    name: str = config.model_type
    why = _why_not(model, config)
    if why is not None:
        raise OutpaceError(
            f"the model type {name!r} cannot be a target of source texts: {why}; tested are "
            f"{', '.join(TESTED)}, and models like them are accepted"
        )
    check_mode(model)
    listed = getattr(model.generation_config, "eos_token_id", None)
    eos_ids = [] if listed is None else listed if isinstance(listed, list) else [listed]
    positions = getattr(config, "max_target_positions", None) or getattr(
        config, "max_position_embeddings", None
    )
    return Seq2SeqFacts(
        name=name,
        vocab_size=model.get_output_embeddings().weight.shape[0],
        num_layers=getattr(config, "decoder_layers", None) or config.num_decoder_layers,
        context_length=positions or 2**20,
        eos_ids=frozenset(map(int, eos_ids)),
        width=config.d_model,
        placing=find_placing(model.get_decoder(), name),
    )


def begin_ids(options: Any, model: Any) -> list[int]:
    """What the decoder of a model begins with: the start token, and what Whisper's language and task add.

    options  a mapping from the names of a call's and a generation_config's options to their values.

    An OutpaceError where these name no start, or no language or task of the model.
    """
    start = options["decoder_start_token_id"]
    start = options["bos_token_id"] if start is None else start
    if not isinstance(start, int):
        raise OutpaceError(
            f"decoder_start_token_id is {start!r}, accepted is a token id, in the call or in the model's "
            "generation_config"
        )
    return [start, *(spoken_ids(options, model.config) if model.config.model_type == "whisper" else [])]


def _why_not(model: Any, config: Any) -> str | None:
    if not getattr(config, "is_encoder_decoder", False):
        return "it is no encoder-decoder"
    if hasattr(model, "_orig_mod") or getattr(model, "_compiled_call_impl", None) is not None:
        return "it is compiled, which may overlook how positions are told"
    missing = sorted(set(_NEEDED) - set(inspect.signature(model.forward).parameters))
    if missing:
        return f"its forward call has no {', '.join(missing)}"
    if model.get_output_embeddings() is None:
        return "it has no output matrix"
    attention = config._attn_implementation
    if attention not in ATTENTION:
        return f"attn_implementation={attention!r} takes no tree mask, accepted are {', '.join(ATTENTION)}"
    return None
