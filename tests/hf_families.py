"""Tiny random transformers models of every tested model type, beyond those that exist as files too."""

from __future__ import annotations

from typing import Any

import torch

from tests.fake_models import BOS_ID, EOS_ID, VOCAB_SIZE, make_model

torch.set_num_threads(1)  # on tiny tensors threads do nothing but wait for one another

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "pad_token_id": VOCAB_SIZE - 1,
}
_GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
_HEADS: dict[str, Any] = {"head_dim": 8}
# Model type -> (name of its classes, what differs from _BASE).
_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("Cohere", _GROUPED),
    "gemma": ("Gemma", _GROUPED | _HEADS),
    "gemma2": ("Gemma2", _GROUPED | _HEADS | {"sliding_window": 6, "attn_implementation": "eager"}),
    "gpt2": ("GPT2", {}),
    "gpt_neox": ("GPTNeoX", {}),
    "granite": ("Granite", _GROUPED),
    "mixtral": ("Mixtral", _GROUPED | {"num_local_experts": 2, "sliding_window": 6}),
    "olmo2": ("Olmo2", _GROUPED),
    "outpace_looped": ("Looped", _GROUPED | {"num_loops": 2}),
    "opt": ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "phi": ("Phi", {}),
    "phi3": ("Phi3", _GROUPED | {"sliding_window": 6}),
    "smollm3": ("SmolLM3", _GROUPED),
    "stablelm": ("StableLm", _GROUPED),
    "starcoder2": ("Starcoder2", _GROUPED | {"sliding_window": 6}),
}
_FROM_FILES = {
    "llama": "llama",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
}
MODEL_TYPES = (*_FROM_FILES, *_OTHERS)


def tiny_model(model_type: str, **changes: Any) -> Any:
    """A model in f32 whose logits differ clearly. `changes` replace values of the configuration."""
    if model_type in _FROM_FILES:
        return make_model(_FROM_FILES[model_type], **changes)
    names, own = _OTHERS[model_type]
    return random_model(names, **_BASE | own | changes)


def random_model(names: str, *, attn_implementation: str = "sdpa", **config: Any) -> Any:
    """The causal language model of a `NamesConfig` with random weights."""
    import transformers

    from outpace.targets import hf_looped_model

    where = hf_looped_model if names == "Looped" else transformers
    made = getattr(where, f"{names}Config")(**config)
    model = transformers.AutoModelForCausalLM.from_config(made, attn_implementation=attn_implementation)
    model = model.float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter += 0.2 * noise
            else:
                embeds = any(part in name for part in ("embed", "wte", "wpe"))
                parameter.copy_(noise * (0.5 if embeds else parameter.shape[1] ** -0.5))
    return model


def contents(model: Any) -> dict[str, Any]:
    """All that the modules of a model hold, its buffers by their values, for comparisons."""
    return {
        name: {
            key: {one: value.tolist() for one, value in held.items() if value is not None}
            if key == "_buffers"
            else dict(held)
            if isinstance(held, dict)
            else held
            for key, held in vars(module).items()
        }
        for name, module in model.named_modules()
    }


def tiny_looped() -> Any:
    """One layer that runs three times; its early outputs are right now and then."""
    from outpace.targets.hf_looped_model import LoopedConfig, LoopedForCausalLM

    torch.manual_seed(3)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    more: dict[str, Any] = {"vocab_size": 300, "num_hidden_layers": 1, "initializer_range": 0.2}
    return LoopedForCausalLM(LoopedConfig(num_loops=3, **sizes, **more)).eval()
