"""A pixel model as training sees it: see `bases.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.pixel_model import START, PixelModel
from outpace.train.bases import TorchBase


class PixelBase(TorchBase):
    """Batches have small u8[B, h, w, C] and labels i64[B, N], the intensities of whole pictures.

    `read` i64[B, N], where a batch has it, are the intensities that the model reads in place of the labels.
    """

    module: PixelModel

    def __init__(self, model: PixelModel, *, name: str = "pixel") -> None:
        super().__init__(model, name=name)

    def unembedding(self, token_ids: NDArray[np.integer] | None) -> Callable[[Tensor], Tensor]:
        """See `Base`."""
        output = self.module.output
        rows = slice(None) if token_ids is None else torch.from_numpy(np.asarray(token_ids, np.int64))
        return lambda states: torch.nn.functional.linear(states, output.weight[rows], output.bias[rows])

    def save(self, folder: Path) -> None:
        """Write the model for `PixelModel.open`."""
        try:
            self.module.save(folder)
        except OSError as error:
            raise OutpaceError(f"cannot write {folder}: {error.strerror or error}") from error

    def _hidden(self, batch: dict[str, Tensor]) -> Tensor:
        return self.module.line_states(lines(batch.get("read", batch["labels"])), batch["small"])


def lines(pictures: Tensor) -> Tensor:
    """i64[B, N] intensities -> i64[B, N]: START and all but the last, what a model reads to predict them."""
    return torch.cat([torch.full_like(pictures[:, :1], START), pictures[:, :-1]], dim=1)
