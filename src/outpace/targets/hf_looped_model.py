"""Decoders whose layers run several times over, on transformers' building blocks.

G layers run R times: loop r, layer g is virtual layer r * G + g. Virtual layers share weights and have keys
and values of their own. The last norm stands before the output matrix, with `loop_norm` also between loops.
`OuroForCausalLM` reads the folders of the Ouro models (ByteDance, arXiv:2510.25741).

After this module is imported, AutoModelForCausalLM knows LoopedForCausalLM.
"""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from outpace.core.errors import OutpaceError

MAX_LOOPS = 64

if not is_dataclass(LlamaConfig):
    raise OutpaceError("looped models in torch need transformers 5 with configurations that are dataclasses")


class LoopedConfig(LlamaConfig):
    """That of a Llama whose `num_hidden_layers` G layers run `num_loops` R times.

    loop_norm       whether the last norm stands between loops too.
    sandwich_norms  whether attention and feed-forward have a norm behind them too, before the residual sum.

    Raises an OutpaceError for a number of loops that is none.
    """

    model_type = "outpace_looped"
    num_loops: int = 2
    loop_norm: bool = False
    sandwich_norms: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        check_loops("num_loops", self.num_loops)
        super().__post_init__(**kwargs)


class OuroConfig(LoopedConfig):
    """That of an Ouro model, whose every token runs through all loops.

    Raises an OutpaceError for thresholds below 1, at which tokens would leave early, and for sliding windows.
    """

    model_type = "ouro"
    max_position_embeddings: int = 32768
    num_key_value_heads: int | None = 32
    total_ut_steps: int = 4
    early_exit_threshold: int | float | None = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        check_loops("total_ut_steps", self.total_ut_steps)
        threshold = self.early_exit_threshold
        if threshold is not None and threshold != 1:
            raise OutpaceError(
                f"early_exit_threshold is {threshold!r:.60}, accepted is 1: no token leaves early"
            )
        if kwargs.get("use_sliding_window"):
            raise OutpaceError("use_sliding_window is true, accepted is false")
        self.num_loops, self.loop_norm, self.sandwich_norms = self.total_ut_steps, True, True
        super().__post_init__(**kwargs)


class SandwichLayer(LlamaDecoderLayer):
    """A layer with a norm before and behind each of its two blocks."""

    def __init__(self, config: LoopedConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.input_layernorm_2 = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm_2 = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, *others: Any, **options: Any) -> Tensor:
        """[B, N, D] -> [B, N, D], with the options of LlamaDecoderLayer."""
        attended, _ = self.self_attn(self.input_layernorm(hidden_states), *others, **options)
        hidden_states = hidden_states + self.input_layernorm_2(attended)
        fed = self.mlp(self.post_attention_layernorm(hidden_states))
        states: Tensor = hidden_states + self.post_attention_layernorm_2(fed)
        return states


class LoopedModel(LlamaModel):
    """The decoder without its output matrix."""

    config: LoopedConfig

    def __init__(self, config: LoopedConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        kind = SandwichLayer if config.sandwich_norms else LlamaDecoderLayer
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = torch.nn.ModuleList(kind(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **options: Any,
    ) -> BaseModelOutputWithPast:
        """As LlamaModel's.

        `hidden_states` are R + 1 tensors [B, N, D]: the embeddings, and after each loop what the output
        matrix would read of it.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise OutpaceError("accepted is either input_ids or inputs_embeds")
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            first = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = torch.arange(first, first + states.shape[1], device=states.device)[None]
        options["attention_mask"] = create_causal_mask(
            config=self.config,
            inputs_embeds=states,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        options["position_embeddings"] = self.rotary_emb(states, position_ids=position_ids)
        options["position_ids"] = position_ids
        seen = [states]
        for loop in range(self.config.num_loops):
            cache = past_key_values
            if cache is not None:
                cache = LoopCache(cache, loop, len(self.layers), self.config.num_loops)
            states = self.run_loop(states, past_key_values=cache, use_cache=use_cache, **options)
            seen.append(self.read_out(states) if output_hidden_states else states)
        return BaseModelOutputWithPast(
            last_hidden_state=self.read_out(states),
            past_key_values=past_key_values,
            hidden_states=tuple(seen) if output_hidden_states else None,
        )

    def run_loop(self, states: Tensor, **options: Any) -> Tensor:
        """States [B, N, D] after one loop. `past_key_values.update` is told the layer, 0 to G - 1."""
        for layer in self.layers:
            states = layer(states, **options)
        return self.norm(states) if self.config.loop_norm else states

    def read_out(self, states: Tensor) -> Tensor:
        """What the output matrix reads of the states after a loop."""
        return states if self.config.loop_norm else self.norm(states)


class LoopCache:
    """The keys and values of one loop in a cache of all of them.

    Raises an OutpaceError for a cache of another number of layers.
    """

    def __init__(self, cache: Any, loop: int, num_layers: int, num_loops: int) -> None:
        self._cache = cache
        self._first = loop * num_layers
        missing = num_layers * num_loops - len(cache.layers)
        if (
            missing <= 0
            or cache.layer_class_to_replicate is not None
            or type(cache).update is not Cache.update
        ):
            return
        if not isinstance(cache, DynamicCache):
            raise OutpaceError(
                f"the {type(cache).__name__} has {len(cache.layers)} layers and the model "
                f"{num_layers * num_loops}, accepted is a DynamicCache"
            )
        # Made for a configuration, whose layers are the G that there are weights of.
        cache.layers += [DynamicLayer() for _ in range(missing)]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *others: Any, **options: Any) -> Any:
        """As a Cache's, for layer 0 to G - 1."""
        return self._cache.update(keys, values, self._first + layer_idx, *others, **options)


class LoopedForCausalLM(LlamaForCausalLM):
    """The decoder with its output matrix."""

    config_class = LoopedConfig
    config: LoopedConfig

    def __init__(self, config: LoopedConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = LoopedModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


class OuroForCausalLM(LoopedForCausalLM):
    """An Ouro model. Its gate, which would let tokens leave early, is left out."""

    config_class = OuroConfig
    config: OuroConfig
    _keys_to_ignore_on_load_unexpected = ["early_exit_gate"]  # noqa: RUF012


def check_loops(name: str, value: object) -> None:
    if type(value) is not int or not 1 <= value <= MAX_LOOPS:
        raise OutpaceError(f"{name} is {value!r:.60}, accepted is a whole number from 1 to {MAX_LOOPS}")


AutoConfig.register(LoopedConfig.model_type, LoopedConfig, exist_ok=True)
AutoModelForCausalLM.register(LoopedConfig, LoopedForCausalLM, exist_ok=True)
