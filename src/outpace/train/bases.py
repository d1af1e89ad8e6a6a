"""Models as training sees them: states, the tokens that come after them, and the output matrix.

CausalBase and Seq2SeqBase wrap transformers models, which can be frozen or finetuned. A native model is
always frozen: its states are computed once, by the engine that will use the heads (`train/features.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.hf_taps import OutputMatrix, model_fingerprint


class Base(Protocol):
    """A model that heads are trained for.

    name    what error messages call it. module: what finetuning trains; None where it cannot be.
    """

    name: str
    hidden_size: int
    vocab_size: int
    device: torch.device

    @property
    def module(self) -> torch.nn.Module | None: ...

    def states(self, batch: Any, num_heads: int) -> tuple[Tensor, Tensor]:
        """([n, D] states at "final", i64[n, k] the tokens 1 to k places after each; -100: there is none)."""

    def unembedding(self, token_ids: NDArray[np.integer] | None) -> Callable[[Tensor], Tensor]:
        """[n, D] -> logits f32[n, M], of all tokens or of these."""

    def fingerprint(self) -> str:
        """As the target that will use the heads has it."""

    def save(self, folder: Path) -> None:
        """Write the model, finetuned, for `from_pretrained`."""


class _Reached(Exception):
    """The output matrix is about to run: its input is all that is wanted."""


class TorchBase(ABC):
    """What bases of transformers models have in common. Batches are dicts of the model's arguments.

    A batch's `labels` i64[B, T] are the token after each state, -100 where there is none.
    """

    def __init__(self, model: Any, *, name: str = "") -> None:
        head = model.get_output_embeddings()
        if head is None:
            raise OutpaceError(f"the model type {model.config.model_type!r} has no output matrix")
        self.name = name or getattr(model.config, "_name_or_path", "") or model.config.model_type
        self.module: Any = model
        self.vocab_size: int = head.weight.shape[0]
        self.hidden_size: int = head.weight.shape[1]
        self.device: torch.device = head.weight.device

    def states(self, batch: Any, num_heads: int) -> tuple[Tensor, Tensor]:
        """See `Base`."""
        moved = {name: value.to(self.device) for name, value in batch.items()}
        hidden, labels = self._hidden(moved), moved["labels"]
        ahead = look_ahead(labels, num_heads)
        some = (ahead >= 0).any(dim=2)
        return hidden[some], ahead[some]

    def unembedding(self, token_ids: NDArray[np.integer] | None) -> Callable[[Tensor], Tensor]:
        """See `Base`."""
        return OutputMatrix(self.module, token_ids)

    def fingerprint(self) -> str:
        """See `Base`."""
        return model_fingerprint(self.module)

    def save(self, folder: Path) -> None:
        """See `Base`."""
        try:
            self.module.save_pretrained(folder)
        except OSError as error:
            raise OutpaceError(f"cannot write {folder}: {error.strerror or error}") from error

    @abstractmethod
    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        """[B, T, D]: the state that each of a batch's labels is predicted from."""

    def _run(self, **arguments: Any) -> Tensor:
        """[B, T, D]: what the output matrix would read in a call of the model."""
        states: list[Tensor] = []

        def before(module: Any, inputs: Any) -> None:
            states.append(inputs[0])
            raise _Reached

        hook = self.module.get_output_embeddings().register_forward_pre_hook(before)
        try:
            self.module(**arguments, use_cache=False)
        except _Reached:
            return states[0]
        finally:
            hook.remove()
        raise AssertionError("the model has an output matrix that it does not use")


class Seq2SeqBase(TorchBase):
    """An encoder-decoder model; batches have input_ids, attention_mask and labels."""

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        read = shifted(batch["labels"], self.module.config)
        return self._run(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], decoder_input_ids=read
        )


class CausalBase(TorchBase):
    """A decoder-only model; batches have input_ids (padded on the right) and labels."""

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        return self._run(input_ids=batch["input_ids"])


def shifted(labels: Tensor, config: Any) -> Tensor:
    """i64[B, T]: what a decoder reads to say the labels, the start token and all but the last of them."""
    said = labels.masked_fill(labels < 0, config.pad_token_id)
    return torch.cat([torch.full_like(said[:, :1], config.decoder_start_token_id), said[:, :-1]], dim=1)


def look_ahead(labels: Tensor, num_heads: int) -> Tensor:
    """i64[B, T] -> i64[B, T, k]: [..., i] is the label i places further on, -100 beyond the end."""
    padded = torch.nn.functional.pad(labels, (0, num_heads - 1), value=-100)
    return torch.stack([padded[:, i : i + labels.shape[1]] for i in range(num_heads)], dim=2)


@contextmanager
def without_gradients(module: torch.nn.Module | None) -> Iterator[None]:
    """What is frozen needs none, and those of an output matrix cost as much as the logits."""
    parameters = [] if module is None else [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
