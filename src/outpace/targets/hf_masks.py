"""Attention masks of trees over a slot cache: a node sees its row's tokens, its ancestors and itself.

Slot s of a row holds the token at position s, and node i of the call lies in slot `length + i`, at position
`length + depth`. A sliding window counts positions, so that a node of a tree sees as far as on a chain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from outpace.core.tree import Shape


def tree_masks(
    shapes: Sequence[Shape],
    positions: Tensor,
    in_sight: int,
    windows: Sequence[int | None],
    dtype: torch.dtype,
    *,
    known: Sequence[int] = (),
) -> list[Tensor]:
    """For each window an additive mask [B, 1, N, in_sight]: 0 where a node sees a slot, else the minimum.

    shapes     the rows' trees.
    positions  i64[B, N] of the trees' nodes, padded.
    windows    how many positions a node sees, its own included; None for all.
    known      how many of each tree's first nodes an earlier call has run: the N nodes come after them.
    """
    if len(shapes) == 1 and positions.device.type == "cpu" and not any(known) and not any(windows):
        return [_alone(shapes[0], in_sight, dtype)] * len(windows)
    slots = torch.arange(in_sight, device=positions.device)
    if all(shape.is_chain for shape in shapes):
        slot_positions = slots.expand(len(shapes), -1)
        seen = slots <= positions[:, :, None]  # [B, N, in_sight]
    else:
        seen, slot_positions = _see_trees(shapes, positions, in_sight, known or [0] * len(shapes))
    masks = []
    for window in windows:
        near = seen
        if window is not None:
            near = seen & (positions[:, :, None] - slot_positions[:, None] < window)
        mask = torch.zeros(near.shape, dtype=dtype, device=positions.device)
        masks.append(mask.masked_fill_(~near, torch.finfo(dtype).min)[:, None])
    return masks


def _alone(shape: Shape, in_sight: int, dtype: torch.dtype) -> Tensor:
    """The mask of one row, without windows: many small operations of torch would take longer."""
    mask = np.zeros((shape.num_nodes, in_sight), np.float32)
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.float32).min)  # float64 has lower ones
    mask[:, in_sight - shape.num_nodes :][~shape.mask()] = lowest
    return torch.from_numpy(mask).to(dtype)[None, None]


def _see_trees(
    shapes: Sequence[Shape], positions: Tensor, in_sight: int, known: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """(bool[B, N, in_sight] which slots a node sees, i64[B, in_sight] the slots' positions)."""
    device, (batch, num_new) = positions.device, positions.shape
    num_nodes = max(shape.num_nodes for shape in shapes)
    ancestors = np.zeros((batch, num_new, num_nodes), dtype=np.bool_)
    depths = np.zeros((batch, 1 + num_nodes), dtype=np.int64)  # of the first new node, then of all nodes
    for row, (shape, old) in enumerate(zip(shapes, known, strict=True)):
        ancestors[row, : shape.num_nodes - old, : shape.num_nodes] = shape.mask()[old:]
        depths[row, 0] = shape.depths[old]
        depths[row, 1 : 1 + shape.num_nodes] = shape.depths
    own = torch.from_numpy(ancestors).to(device, non_blocking=True)
    levels = torch.from_numpy(depths).to(device, non_blocking=True)
    lengths = positions[:, :1] - levels[:, :1]
    nodes = lengths + torch.arange(num_nodes, device=device)  # their slots [B, num_nodes]
    # The padding of a short tree may lie beyond what is in sight.
    slots = torch.arange(in_sight + num_nodes, device=device)
    seen = (slots < lengths)[:, None].repeat(1, num_new, 1)
    seen.scatter_(2, nodes[:, None].expand(-1, num_new, -1), own)
    slot_positions = slots.repeat(batch, 1).scatter_(1, nodes, lengths + levels[:, 1:])
    return seen[:, :, :in_sight], slot_positions[:, :in_sight]
