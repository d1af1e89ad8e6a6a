"""Hidden states of a transformers model and products with them: what makes a torch target `Tapped`.

Hooks take the states for the time of a call; the model stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError

FINAL = "final"
"""The tap of what the output matrix reads. Others are layers by number, 0 the first: their outputs."""

SAMPLED_VALUES = 256  # of every parameter go into a fingerprint


class Taps:
    """What a target's calls offer as hidden states.

    model       the whole model.
    stack       the part of it whose layers are numbered: the decoder.
    num_layers  how many layers that has.
    """

    def __init__(self, model: Any, stack: Any, num_layers: int) -> None:
        self.names: list[str] = []
        self._model = model
        self._stack = stack
        self._num_layers = num_layers

    def add(self, names: Sequence[int | str]) -> None:
        """Offer these too; an OutpaceError for one that the model does not have."""
        accepted = [*map(str, range(self._num_layers)), FINAL]
        for name in map(str, names):
            if name not in accepted:
                raise OutpaceError(
                    f"unknown tap {name!r}, accepted are 0 to {self._num_layers - 1} and {FINAL}"
                )
            if name not in self.names:
                self.names.append(name)

    @contextmanager
    def taken(self) -> Iterator[dict[str, Tensor]]:
        """Hidden states [B, N, D] by tap, filled by the forward call inside."""
        states: dict[str, Tensor] = {}
        with ExitStack() as hooks:
            for name in self.names:
                hooks.enter_context(self._hook(name, states))
            yield states

    def _hook(self, name: str, states: dict[str, Tensor]) -> Any:
        """A hook that writes one tap's states; it goes when its context ends."""
        if name == FINAL:

            def before(module: Any, inputs: Any) -> None:
                states[name] = inputs[0]

            return self._model.get_output_embeddings().register_forward_pre_hook(before)

        def after(module: Any, inputs: Any, output: Any) -> None:
            states[name] = output[0] if isinstance(output, tuple) else output

        return self._layers()[int(name)].register_forward_hook(after)

    def _layers(self) -> Any:
        for module in self._stack.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == self._num_layers:
                return module
        raise OutpaceError(
            f"the layers of the model type {self._model.config.model_type!r} were not found, "
            f"accepted is {FINAL}"
        )


class TorchProduct:
    """A matrix [M, D] on the model's device, in its type; see `contracts.Product`.

    bias  [M], added. scale and cap: logits times scale, then within +-cap by tanh, where a model does so.
    """

    def __init__(
        self, weight: Tensor, *, bias: Tensor | None = None, scale: float = 1.0, cap: float | None = None
    ) -> None:
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach().flatten()
        self._scale = scale
        self._cap = cap

    @property
    def num_outputs(self) -> int:
        """M."""
        return self._weight.shape[0]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, M]."""
        product: NDArray[np.float32] = self._run(x).cpu().numpy()
        return product

    def top(self, x: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """([n, k] numbers, [n, k] values) of the largest outputs, best first."""
        values, numbers = self._run(x).topk(min(k, self.num_outputs), dim=1)
        return numbers.cpu().numpy(), values.cpu().numpy()

    def _run(self, x: NDArray[np.float32]) -> Tensor:
        with torch.no_grad():
            states = torch.from_numpy(np.ascontiguousarray(x)).to(self._weight.device, self._weight.dtype)
            # A bias of the output matrix comes before the scale where there are both; no model has both.
            product = torch.nn.functional.linear(states, self._weight, self._bias).float() * self._scale
            return product if self._cap is None else self._cap * torch.tanh(product / self._cap)


def output_product(model: Any, token_ids: NDArray[np.integer] | None) -> TorchProduct:
    """A model's output matrix, or some rows of it, with what the model does to its logits."""
    config = model.config.get_text_config(decoder=True)
    head = model.get_output_embeddings()
    rows = slice(None) if token_ids is None else torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
    biases = [getattr(head, "bias", None), getattr(model, "final_logits_bias", None)]
    given = [bias.flatten() for bias in biases if bias is not None]
    return TorchProduct(
        head.weight[rows],
        bias=sum(given[1:], given[0])[rows] if given else None,
        scale=(getattr(config, "logit_scale", None) or 1.0)
        / (getattr(config, "logits_scaling", None) or 1.0),
        cap=getattr(config, "final_logit_softcapping", None),
    )


def model_fingerprint(model: Any) -> str:
    """Of a model's parameters: their names, shapes, and some values of each, evenly spread."""
    digest = hashlib.sha256()
    for name, parameter in sorted(getattr(model, "_orig_mod", model).named_parameters()):
        flat = parameter.detach().flatten()
        step = max(1, len(flat) // SAMPLED_VALUES)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
