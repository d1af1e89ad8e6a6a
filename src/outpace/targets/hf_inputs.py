"""The inputs of transformers' `generate`: batches of token ids with masks, and torch's generator."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from outpace.core.errors import OutpaceError

SOURCES_ARE_GUESSED = tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 2)
"""Whether transformers takes pad tokens of an encoder's inputs without a mask for padding."""


def draw_seed() -> int:
    """A seed from torch's default generator: `torch.manual_seed` decides it, and no two calls share one."""
    return int(torch.randint(0, 2**63 - 1, ()).item())


def check_ids(name: str, ids: Any) -> None:
    """OutpaceError for anything but token ids [B, W], both >= 1."""
    if not isinstance(ids, Tensor):
        kind = "missing" if ids is None else f"a {type(ids).__name__}"
        raise OutpaceError(f"{name} is {kind}, accepted is a tensor [B, W] of whole numbers")
    if ids.ndim != 2 or 0 in ids.shape:
        raise OutpaceError(f"{name} has shape {tuple(ids.shape)}, accepted are [B, W], both >= 1")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise OutpaceError(f"{name} is in {ids.dtype}, accepted are whole numbers, such as torch.int64")


def check_mask(mask: Any, inputs: Tensor) -> Tensor:
    """bool[B, W], where a mask has ones; OutpaceError for anything but zeros and ones like the inputs."""
    if not isinstance(mask, Tensor):
        raise OutpaceError(f"attention_mask is a {type(mask).__name__}, accepted is a tensor like input_ids")
    if mask.shape != inputs.shape:
        raise OutpaceError(
            f"attention_mask has shape {tuple(mask.shape)}, accepted is that of input_ids, "
            f"{tuple(inputs.shape)}"
        )
    if not ((mask == 0) | (mask == 1)).all():
        raise OutpaceError("attention_mask has other values than 0 and 1, accepted are these")
    return mask.bool()


def paddings(ids: Tensor, mask: Tensor | None, pad_id: int | None) -> list[int]:
    """How many tokens of each row are padding on its left. An OutpaceError for padding elsewhere.

    pad_id  of a padding that is seen by its tokens, where there is no mask; None: there is none.
    """
    if mask is None:
        seen = torch.ones_like(ids, dtype=torch.bool) if pad_id is None else ids != pad_id
    else:
        seen = check_mask(mask, ids)
    counts: list[int] = seen.int().argmax(dim=1).tolist()
    for row, first in zip(seen.tolist(), counts, strict=True):
        if not all(row[first:]):
            raise OutpaceError(
                "attention_mask has zeros after ones, accepted is padding on the left (padding_side='left')"
                if any(row)
                else "the prompt is empty, accepted are prompts of 1 token or more"
            )
    return counts
