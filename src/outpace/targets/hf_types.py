"""Types of torch and transformers, for signatures of those who do not import these libraries themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import Module
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["GenerationConfig", "Model", "PreTrainedModel", "PreTrainedTokenizerBase", "Tensor"]

Model = PreTrainedModel | Module | Callable[..., Any]
"""A model, or what other libraries wrap around one: adapters, parallel copies, a compiled function."""
