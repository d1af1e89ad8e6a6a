"""A torch model's linear layers by our own block kernels, while a target calls the model.

In f32 on a CPU torch takes three to four times as long for the eight nodes of a draft as for one, and rounds
them differently. The block kernels take less than twice as long, on one thread, and a node's bits do not
depend on how many others there are. Attention, norms and embeddings stay torch's, as do layers of many
weights and calls of many nodes (prompts), for which all threads pay.

The kernels read copies. Before a prompt is read, the copies of changed weights are made again. torch counts
all changes but those through `.data`; some values of every matrix are compared too, which finds changes of
nearly all values, such as a merged adapter. For any other change there is `refresh`.
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.hf_detours import detour_of, is_replaced, replaced
from outpace.targets.hf_products import MOST_WEIGHTS, block_multiply
from outpace.targets.native_products import floats_kind, packed_matrix

MOST_NODES = 32
SAMPLED_WEIGHTS = 16  # of a matrix, compared with its copy's
Kernels = Literal["torch", "block"]


class Linears(Protocol):
    """How a model's linear layers are multiplied."""

    def __call__(self) -> AbstractContextManager[None]:
        """A context for a call of the model."""

    def look(self) -> None:
        """Before a prompt: follow weights that have changed."""

    def refresh(self) -> None:
        """Make all copies of weights anew."""


class TorchLinears:
    """The model itself."""

    def __call__(self) -> AbstractContextManager[None]:
        """See `Linears`."""
        return nullcontext()

    def look(self) -> None:
        """There are no copies."""

    def refresh(self) -> None:
        """There are no copies."""


class BlockLinears:
    """Copies of a model's linear layers, which stand in for them within its context, without gradients.

    Raises OutpaceError for a model that is compiled, on a device, not in float32, or has no such layers.
    """

    def __init__(self, model: Any) -> None:
        if hasattr(model, "_orig_mod"):
            raise _unfit("compiled")
        _check_weight(model.get_output_embeddings().weight)
        layers = [
            layer
            for layer in model.modules()
            if type(layer) is torch.nn.Linear
            and not is_replaced(layer)
            and layer.weight.numel() <= MOST_WEIGHTS
        ]
        if not layers:
            raise OutpaceError(
                f"no linear layer of the model has {MOST_WEIGHTS} weights or fewer, accepted is "
                "kernels='torch'"
            )
        self._hold(layers)

    def _hold(self, layers: list[Any]) -> None:
        self._layers = [_Layer(layer) for layer in layers]
        self._forwards = [(layer.detour, layer.by_blocks) for layer in self._layers]

    def __deepcopy__(self, memo: dict[int, Any]) -> BlockLinears:
        # The layers of a copied model, not copies of what stands in for the first one's.
        twin = BlockLinears.__new__(BlockLinears)
        twin._hold([copy.deepcopy(layer.detour.module, memo) for layer in self._layers])
        return twin

    def __call__(self) -> AbstractContextManager[None]:
        """Within, the layers multiply by the block kernels, in this thread."""
        if torch.is_autocast_enabled("cpu"):
            return nullcontext()  # who wants another type gets it from torch
        return replaced(self._forwards)

    def look(self) -> None:
        """See `Linears`."""
        for layer in self._layers:
            if layer.is_stale():
                layer.copy()

    def refresh(self) -> None:
        """See `Linears`."""
        for layer in self._layers:
            layer.copy()


class _Layer:
    """One linear layer and its copy."""

    def __init__(self, layer: Any) -> None:
        self.detour = detour_of(layer)
        self._cols = layer.in_features
        self._held = layer._parameters  # the layer's own, whatever it holds later
        self._seen = (0, -1)
        self.copy()

    def copy(self) -> None:
        """Copy the weights as they are now."""
        if not self._is_held():
            return
        weight = self._held["weight"]
        _check_weight(weight)
        floats = weight.detach().numpy()
        # A view, which also keeps the memory: no later weights can have its address.
        self._sample = floats.reshape(-1)[:: max(1, floats.size // SAMPLED_WEIGHTS)]
        self._sampled = self._sample.tobytes()
        self._seen = _stamp(weight)
        self._multiply = block_multiply(packed_matrix(floats, floats_kind(floats)), None)

    def is_stale(self) -> bool:
        """Whether the weights have changed, as far as torch or a few of them tell."""
        if not self._is_held():
            return False
        weight = self._held["weight"]
        return _stamp(weight) != self._seen or self._sample.tobytes() != self._sampled

    def _is_held(self) -> bool:
        """Whether the weights are parameters, not made of others as by a parametrization or pruning."""
        return self._held.keys() >= {"weight", "bias"}

    def by_blocks(self, x: Tensor) -> Tensor:
        """The layer's `forward` by its copy. Bias and shapes as torch has them."""
        if self.detour.own is not None or not self._is_held():
            return self.detour.plain(x)
        bias = self._held["bias"]
        if x.numel() > MOST_NODES * self._cols:
            return torch.nn.functional.linear(x, self._held["weight"], bias)
        product = self._multiply(x.reshape(-1, self._cols).numpy())
        if bias is not None:
            product.add_(bias)
        return product.view(*x.shape[:-1], product.shape[-1])  # also of no rows


def linears_of(model: Any, kernels: str) -> Linears:
    """The linears that an option names. An OutpaceError for another name."""
    if kernels not in get_args(Kernels):
        raise OutpaceError(f"kernels is {kernels!r}, accepted are {', '.join(get_args(Kernels))}")
    return BlockLinears(model) if kernels == "block" else TorchLinears()


def _stamp(weight: Tensor) -> tuple[int, int]:
    """Where weights lie and how often torch has seen them change; it does not count in inference mode."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _check_weight(weight: Tensor) -> None:
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        raise _unfit(f"{weight.dtype} on {weight.device}")


def _unfit(kind: str) -> OutpaceError:
    return OutpaceError(
        f"the model is {kind}, and kernels='block' accepts models in torch.float32 on the CPU, not compiled"
    )
