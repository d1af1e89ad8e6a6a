"""Positions of a tree's nodes for decoders that count tokens: passed to one module during a call.

The decoder of an encoder-decoder model takes no position_ids. It numbers the tokens of a call from the length
of its cache on, which is wrong in a tree and in rows of different lengths. One module reads the numbers, a
table of embeddings or the first layer's relative bias, and that module is given the right ones.
"""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.hf_detours import Forward, detours


class Placing(Protocol):
    """How a family of decoders can be told positions."""

    def at(self, positions: Tensor, slot_positions: Tensor) -> AbstractContextManager[None]:
        """Forward calls inside are on nodes at i64[B, N], over slots whose tokens are at i64[B, in_sight]."""


class EmbeddedPositions:
    """A table, learned or of sines, that takes position_ids: BART, mBART, Marian, Pegasus, Whisper."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def at(self, positions: Tensor, slot_positions: Tensor) -> AbstractContextManager[None]:
        """See `Placing`."""

        def way(forward: Forward) -> Forward:
            def told(*args: Any, **options: Any) -> Tensor:
                # Some tables expect the positions of one row and put an axis in front.
                output: Tensor = forward(*args, **options | {"position_ids": positions})
                return output.view(*positions.shape, -1)

            return told

        return detours([(self._table, way)])


class SkippingPositions:
    """A table of sines that counts what is not padding and grows: M2M-100 and NLLB."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def at(self, positions: Tensor, slot_positions: Tensor) -> AbstractContextManager[None]:
        """See `Placing`."""
        table = self._table

        def way(forward: Forward) -> Forward:
            def told(tokens: Tensor, *args: Any, **options: Any) -> Tensor:
                forward(tokens, *args, **options)  # which makes the table grow
                padding: int = table.padding_idx
                numbers = (positions + padding + 1).masked_fill(tokens == padding, padding)
                rows: Tensor = table.weights[numbers]
                return rows

            return told

        return detours([(table, way)])


class RelativeBias:
    """A bias of the attention by the distance between positions, which the layers share: T5, mT5."""

    def __init__(self, first_block: Any, attention: Any) -> None:
        self._block = first_block
        self._attention = attention

    def at(self, positions: Tensor, slot_positions: Tensor) -> AbstractContextManager[None]:
        """See `Placing`."""
        attention = self._attention
        buckets = attention._relative_position_bucket(
            slot_positions[:, None] - positions[:, :, None],  # [B, N, in_sight]
            bidirectional=False,
            num_buckets=attention.relative_attention_num_buckets,
            max_distance=attention.relative_attention_max_distance,
        )
        with torch.no_grad():
            bias = attention.relative_attention_bias(buckets).permute(0, 3, 1, 2)  # [B, heads, N, in_sight]

        def way(forward: Forward) -> Forward:
            def told(hidden: Tensor, mask: Any, nothing: Any, *others: Any, **options: Any) -> Any:
                assert nothing is None, "the first block has no bias from another"
                return forward(hidden, mask, bias, *others, **options)

            return told

        return detours([(self._block, way)])


def find_placing(decoder: Any, name: str) -> Placing:
    """How to tell this decoder positions; an OutpaceError, which names the model type, if there is no way."""
    table = getattr(decoder, "embed_positions", None)
    if table is not None and "position_ids" in inspect.signature(table.forward).parameters:
        return EmbeddedPositions(table)
    if hasattr(table, "create_position_ids_from_inputs_embeds"):
        return SkippingPositions(table)
    blocks: Any = getattr(decoder, "block", ())
    layers = [getattr(block.layer[0], "SelfAttention", None) for block in blocks]
    biased = [hasattr(layer, "relative_attention_bias") for layer in layers]
    if biased and biased == [True, *[False] * (len(layers) - 1)]:
        return RelativeBias(blocks[0], layers[0])
    raise OutpaceError(
        f"the model type {name!r} cannot be a target: its decoder cannot be told positions, accepted are "
        "decoders with a table of positions, or with a relative bias that all layers share"
    )
