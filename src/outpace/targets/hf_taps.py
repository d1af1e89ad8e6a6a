"""Hidden states of a transformers model and products with them: what makes a torch target `Tapped`.

The states are taken for the time of a call; the model stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import ref

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.core.layers import LayerSpec
from outpace.core.machine import default_threads
from outpace.targets.hf_detours import Forward, Way, detours
from outpace.targets.hf_linears import Linears
from outpace.targets.hf_products import TorchProduct
from outpace.targets.native_layer import NativeLayer

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
        self.stack = stack
        self.num_layers = num_layers
        self.beside: ref[NativeLayer] | None = None  # the last layer beside the model

    def add(self, names: Sequence[int | str]) -> None:
        """Offer these too; an OutpaceError for one that the model does not have."""
        accepted = [*map(str, range(self.num_layers)), FINAL]
        for name in map(str, names):
            if name not in accepted:
                raise OutpaceError(
                    f"unknown tap {name!r}, accepted are 0 to {self.num_layers - 1} and {FINAL}"
                )
            if name not in self.names:
                self.names.append(name)

    @contextmanager
    def taken(self) -> Iterator[dict[str, Tensor]]:
        """Hidden states [B, N, D] by tap, filled by the forward call inside."""
        states: dict[str, Tensor] = {}
        with detours([self._way(name, states) for name in self.names]):
            yield states

    def _way(self, name: str, states: dict[str, Tensor]) -> tuple[Any, Way]:
        """The module that one tap is at, and a way through it that writes the tap's states."""

        def before(forward: Forward) -> Forward:
            def into(inputs: Tensor, *others: Any, **options: Any) -> Any:
                states[name] = inputs
                return forward(inputs, *others, **options)

            return into

        def after(forward: Forward) -> Forward:
            def out_of(*inputs: Any, **options: Any) -> Any:
                output = forward(*inputs, **options)
                states[name] = output[0] if isinstance(output, tuple) else output
                return output

            return out_of

        if name == FINAL:
            return self._model.get_output_embeddings(), before
        return self._layers()[int(name)], after

    def _layers(self) -> Any:
        for module in self.stack.modules():
            if isinstance(module, torch.nn.ModuleList) and len(module) == self.num_layers:
                return module
        raise OutpaceError(
            f"the layers of the model type {self._model.config.model_type!r} were not found, "
            f"accepted is {FINAL}"
        )


class TappedModel:
    """What makes a target of a transformers model `Tapped`: its `_taps` are taken in every call."""

    model: Any
    _taps: Taps
    _linears: Linears

    def refresh(self) -> None:
        """Make copies of the model's weights anew, after changes that `hf_linears.py` overlooks."""
        self._linears.refresh()

    @property
    def hidden_size(self) -> int:
        """D: the width of what the output matrix reads."""
        width: int = self.model.get_output_embeddings().weight.shape[1]
        return width

    @property
    def num_layers(self) -> int:
        """How many layers the decoder has: taps are named by their numbers."""
        return self._taps.num_layers

    def fingerprint(self) -> str:
        """Names the weights."""
        return model_fingerprint(self.model)

    def tap(self, *names: str) -> None:
        """From the next call on `Scores.hidden` offers these taps too."""
        self._taps.add(names)

    def product(self, weight: NDArray[np.float32]) -> TorchProduct:
        """A matrix [M, K] on the model's device, in its type."""
        like = self.model.get_output_embeddings().weight
        return TorchProduct(torch.from_numpy(weight).to(like.device, like.dtype))

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> TorchProduct:
        """The output matrix, or these rows of it, for states at "final"."""
        output = OutputMatrix(self.model, token_ids)
        return TorchProduct(output.weight(), output.bias(), output.finish)

    def output_rows(self, token_ids: NDArray[np.integer] | None = None) -> NDArray[np.float32]:
        """f32[M, D]: the output matrix, or these rows of it."""
        rows: NDArray[np.float32] = (
            OutputMatrix(self.model, token_ids).weight().detach().float().cpu().numpy()
        )
        return rows

    def input_rows(self, token_ids: NDArray[np.integer]) -> NDArray[np.float32]:
        """f32[M, D]: the input embeddings of these tokens."""
        embed = self._taps.stack.get_input_embeddings()
        with torch.no_grad():
            found = embed(torch.from_numpy(np.asarray(token_ids, np.int64)).to(embed.weight.device))
        rows: NDArray[np.float32] = found.float().cpu().numpy()
        return rows

    def layer(self, spec: LayerSpec) -> NativeLayer:
        """A decoder layer of the caller's. All of them run on the same threads, wherever the model does."""
        last = self._taps.beside and self._taps.beside()
        layer = NativeLayer(spec, threads=default_threads(), beside=last.decoder if last else None)
        self._taps.beside = ref(layer)
        return layer


class OutputMatrix:
    """A model's output matrix, or some rows of it, with what the model does to its logits.

    Follows the model's own parameters, gradients included: it is theirs that training changes.
    """

    def __init__(self, model: Any, token_ids: NDArray[np.integer] | None = None) -> None:
        config = model.config.get_text_config(decoder=True)
        self._model = model
        self._rows = None if token_ids is None else torch.from_numpy(np.asarray(token_ids, dtype=np.int64))
        self._scale: float = getattr(config, "logit_scale", None) or 1.0
        self._scale /= getattr(config, "logits_scaling", None) or 1.0
        self._cap: float | None = getattr(config, "final_logit_softcapping", None)

    def weight(self) -> Tensor:
        """[M, D]."""
        whole: Tensor = self._model.get_output_embeddings().weight
        return whole if self._rows is None else whole[self._rows]

    def bias(self) -> Tensor | None:
        """[M], or None."""
        head = self._model.get_output_embeddings()
        biases = [getattr(head, "bias", None), getattr(self._model, "final_logits_bias", None)]
        given = [bias.flatten() for bias in biases if bias is not None]
        if not given:
            return None
        whole = sum(given[1:], given[0])
        return whole if self._rows is None else whole[self._rows]

    def finish(self, logits: Tensor) -> Tensor:
        """Scale and cap, f32."""
        logits = logits.float() if self._scale == 1.0 else logits.float() * self._scale
        return logits if self._cap is None else self._cap * torch.tanh(logits / self._cap)

    def __call__(self, states: Tensor) -> Tensor:
        """[..., D] -> logits f32[..., M]."""
        return self.finish(torch.nn.functional.linear(states, self.weight(), self.bias()))


def model_fingerprint(model: Any) -> str:
    """A hash of a model's parameters: their names, shapes, and some values of each, evenly spread."""
    digest = hashlib.sha256()
    for name, parameter in sorted(getattr(model, "_orig_mod", model).named_parameters()):
        flat = parameter.detach().flatten()
        step = max(1, len(flat) // SAMPLED_VALUES)
        digest.update(f"{name} {tuple(parameter.shape)}".encode())
        digest.update(flat[::step].float().cpu().numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"
