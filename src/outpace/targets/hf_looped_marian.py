"""Encoder-decoders whose decoder layers run several times over, on transformers' Marian.

The encoder is an ordinary one. G decoder layers run R times, as in `hf_looped_model.py`: every loop has keys
and values of its own for the text, those of the source belong to a layer and serve all its loops. Marian's
layers end in a norm, so that the output matrix reads the states after any loop as they are.

After this module is imported, AutoModelForSeq2SeqLM knows LoopedMarianMTModel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.marian.modeling_marian import MarianDecoder

from outpace.core.errors import OutpaceError
from outpace.targets.hf_looped_model import LoopCache, check_loops


class LoopedMarianConfig(MarianConfig):
    """That of a Marian whose `decoder_layers` G layers run `num_loops` R times.

    Raises an OutpaceError for a number of loops that is none.
    """

    model_type = "outpace_looped_marian"
    num_loops: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        check_loops("num_loops", self.num_loops)
        super().__post_init__(**kwargs)


class LoopedMarianDecoder(MarianDecoder):
    """The decoder without its output matrix."""

    config: LoopedMarianConfig

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        """As MarianDecoder's.

        `hidden_states` are R + 1 tensors [B, N, D]: the embeddings with their positions, and what the output
        matrix would read after each loop.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise OutpaceError("accepted is either input_ids or inputs_embeds of the decoder")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = EncoderDecoderCache(DynamicCache(), DynamicCache())
        if past_key_values is not None and not isinstance(past_key_values, EncoderDecoderCache):
            raise OutpaceError(
                f"past_key_values is a {type(past_key_values).__name__}, accepted is an EncoderDecoderCache"
            )
        first = 0 if past_key_values is None else past_key_values.get_seq_length()
        positions = torch.arange(first, first + inputs_embeds.shape[1], device=inputs_embeds.device)
        states = self.placed(inputs_embeds, positions)
        options["attention_mask"] = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            past_key_values=None if past_key_values is None else past_key_values.self_attention_cache,
        )
        options |= self.source_options(states, encoder_hidden_states, encoder_attention_mask)
        seen = [states]
        for cache in self._loop_caches(past_key_values):
            states = self.run_loop(states, past_key_values=cache, use_cache=use_cache, **options)
            seen.append(self.read_out(states))
        return BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=self.read_out(states),
            past_key_values=past_key_values,
            hidden_states=tuple(seen) if output_hidden_states else None,
        )

    def _loop_caches(self, past_key_values: EncoderDecoderCache | None) -> list[LoopAndSource | None]:
        num_loops = self.config.num_loops
        if past_key_values is not None:
            text = past_key_values.self_attention_cache
            caches = [LoopCache(text, loop, len(self.layers), num_loops) for loop in range(num_loops)]
            return [LoopAndSource(past_key_values, cache) for cache in caches]
        if self.gradient_checkpointing and self.training:
            return [None] * num_loops  # a layer that is run again must find what it found before
        source = EncoderDecoderCache(DynamicCache(), DynamicCache())
        return [LoopAndSource(source, _NothingHeld())] * num_loops

    def source_options(self, states: Tensor, source: Tensor | None, mask: Tensor | None) -> dict[str, Any]:
        """What a loop over states [B, N, D] is told of sources [B, S, D]. mask: [B, S], 0 for padding."""
        seen = None
        if mask is not None:
            seen = create_bidirectional_mask(
                config=self.config, inputs_embeds=states, attention_mask=mask, encoder_hidden_states=source
            )
        return {"encoder_hidden_states": source, "encoder_attention_mask": seen}

    def placed(self, embeds: Tensor, positions: Tensor) -> Tensor:
        """What loop 0 reads, [B, N, D], of the embeddings of tokens at positions i64[N] or [B, N]."""
        states = embeds * self.embed_scale + self.embed_positions(embeds.shape[:2], position_ids=positions)
        return torch.nn.functional.dropout(states, p=self.dropout, training=self.training)

    def run_loop(self, states: Tensor, **options: Any) -> Tensor:
        """States [B, N, D] after one loop. `past_key_values` is told the layer, 0 to G - 1."""
        for layer in self.layers:
            if not self.training or self.layerdrop == 0 or torch.rand([]) >= self.layerdrop:
                states = layer(states, **options)
        return states

    def read_out(self, states: Tensor) -> Tensor:
        """What the output matrix reads of the states after a loop."""
        return states


class LoopAndSource(EncoderDecoderCache):
    """The keys and values of a loop: its own of the text, and those of the source, which all loops share."""

    def __init__(self, cache: EncoderDecoderCache, text: Any) -> None:
        self.self_attention_cache = text
        self.cross_attention_cache = cache.cross_attention_cache
        self.is_updated = cache.is_updated


class _NothingHeld:
    """The text's keys and values of a call that has and leaves no cache."""

    def update(self, keys: Tensor, values: Tensor, *others: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """Those given."""
        return keys, values


class LoopedMarianMTModel(MarianMTModel):
    """The model with its output matrix, which also adds `final_logits_bias`."""

    config_class = LoopedMarianConfig
    config: LoopedMarianConfig

    def __init__(self, config: LoopedMarianConfig) -> None:
        super().__init__(config)
        self.model.decoder = LoopedMarianDecoder(config)
        self.post_init()  # which ties its embedding


AutoConfig.register(LoopedMarianConfig.model_type, LoopedMarianConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(LoopedMarianConfig, LoopedMarianMTModel, exist_ok=True)
