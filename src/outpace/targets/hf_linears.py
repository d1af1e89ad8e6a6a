"""A torch model's linear layers by our own block kernels, while a target calls the model.

In f32 on a CPU torch takes three to four times as long for the eight nodes of a draft as for one, and rounds
them otherwise. The block kernels take less than twice as long, on one thread, and a node's bits do not depend
on how many others there are. Attention, norms and embeddings stay torch's, as do layers of many weights and
calls of many nodes (prompts), which deserve all threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.hf_products import MOST_WEIGHTS, block_multiply
from outpace.targets.native_products import floats_kind, packed_matrix

MOST_NODES = 32
Kernels = Literal["torch", "block"]
Linears = Callable[[], AbstractContextManager[Any]]
"""A context for calls of a model: who multiplies in its linear layers."""


class BlockLinears:
    """Copies of a model's linear layers, which stand in for them within its context, without gradients.

    Weights must not change later: calls of few nodes would not see it, those of many would.

    Raises OutpaceError for a model that is compiled, on a device, not in float32, or has no such layers.
    """

    def __init__(self, model: Any) -> None:
        weight = model.get_output_embeddings().weight
        if hasattr(model, "_orig_mod") or weight.device.type != "cpu" or weight.dtype != torch.float32:
            kind = "compiled" if hasattr(model, "_orig_mod") else f"{weight.dtype} on {weight.device}"
            raise OutpaceError(
                f"the model is {kind}, and kernels='block' accepts models in torch.float32 on the CPU, not "
                "compiled"
            )
        layers = [
            layer
            for layer in model.modules()
            if type(layer) is torch.nn.Linear
            and "forward" not in vars(layer)  # somebody else's already
            and layer.weight.numel() <= MOST_WEIGHTS
        ]
        if not layers:
            raise OutpaceError(
                f"no linear layer of the model has {MOST_WEIGHTS} weights or fewer, accepted is "
                "kernels='torch'"
            )
        self._forwards = [(vars(layer), _by_blocks(layer)) for layer in layers]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within, the layers multiply by the block kernels."""
        for attributes, forward in self._forwards:
            attributes["forward"] = forward
        try:
            yield
        finally:
            for attributes, _ in self._forwards:
                attributes.pop("forward", None)


def linears_of(model: Any, kernels: str) -> Linears:
    """What a name in an option means."""
    if kernels not in get_args(Kernels):
        raise OutpaceError(f"kernels is {kernels!r}, accepted are {', '.join(get_args(Kernels))}")
    return BlockLinears(model) if kernels == "block" else nullcontext


def _by_blocks(layer: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
    """The layer's `forward`. Bias and shapes as torch has them."""
    weight, bias = layer.weight, layer.bias
    floats = weight.detach().numpy()
    multiply = block_multiply(packed_matrix(floats, floats_kind(floats)), bias)
    cols, most = layer.in_features, MOST_NODES * layer.in_features

    def forward(x: Tensor) -> Tensor:
        if x.numel() > most:
            return torch.nn.functional.linear(x, weight, bias)
        return multiply(x.reshape(-1, cols).numpy()).view(*x.shape[:-1], -1)

    return forward
