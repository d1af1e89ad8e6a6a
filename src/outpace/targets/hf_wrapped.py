"""The transformers model inside another library's wrapper, or the reason why it cannot be used.

Adapters that are layers of the model (LoRA and its kin, of peft) act in it whoever calls it, so its wrapper
is not needed. Those that put tokens or keys in front of every text do their work in the wrapper.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from outpace.core.errors import OutpaceError

_ACCEPTED = (
    "accepted are a PreTrainedModel of transformers, also under torch.compile, DataParallel or "
    "DistributedDataParallel, and a PeftModel whose adapters are layers"
)


def plain_model(model: Any) -> Any:
    """The model under its wrappers; OutpaceError for what is none, or is more than its model."""
    parallel = torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif callable(getattr(model, "get_base_model", None)):  # of peft
            for adapter in getattr(model, "peft_config", {}).values():
                _check_adapter(adapter)
            model = model.get_base_model()
        else:
            break
    if not isinstance(getattr(model, "_orig_mod", model), PreTrainedModel):
        inner = [
            name
            for name in ("model", "module", "pretrained_model")
            if isinstance(getattr(model, name, None), PreTrainedModel)
        ]
        hint = f"; its .{inner[0]} is one" if inner else ""
        raise OutpaceError(f"a {type(model).__name__} is no transformers model, {_ACCEPTED}{hint}")
    for module in model.modules():
        if type(module).__module__.startswith("torch.ao.nn.quantized.dynamic"):
            raise OutpaceError(
                f"the model is quantised dynamically ({type(module).__name__}): such layers round all tokens "
                "of a call by their common range, so that drafts would change the output; accepted are "
                "models whose weights alone are quantised"
            )
    return model


def generation_config_of(model: Any, inner: Any) -> Any:
    """What a model's wrapper says, or else the model inside; None where neither says anything."""
    return getattr(model, "generation_config", None) or getattr(inner, "generation_config", None)


def _check_adapter(adapter: Any) -> None:
    """OutpaceError for an adapter (of peft) that does its work outside of the model's layers."""
    kind = str(getattr(getattr(adapter, "peft_type", None), "value", type(adapter).__name__))
    if getattr(adapter, "is_prompt_learning", False) or getattr(adapter, "is_adaption_prompt", False):
        raise OutpaceError(
            f"the model's adapter {kind} puts tokens or keys in front of every text, which its layers do not "
            "know; accepted are adapters that are layers, such as LORA"
        )
    if getattr(adapter, "alora_invocation_tokens", None):
        raise OutpaceError(
            f"the model's adapter {kind} has alora_invocation_tokens and acts on a part of the text alone, "
            "accepted are adapters that act on all of it"
        )
