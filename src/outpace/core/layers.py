"""One decoder layer beside a target, which is given what others make of tokens (`Embedded.layer`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.products import Product

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """Attention with rotary positions, then a gated feed-forward behind a norm; D wide.

    input_width     W: what the queries, keys and values are made of.
    rope_inv_freq   f32[head_dim / 2]; rope_scale: of cosine and sine.
    context_length  the most tokens of a row. window: how many of these a token sees, with itself; 0 for all.
    matrices        q, k, v [.., W], o [D, ..], gate, up [.., D], down [D, ..].
    vectors         ffn_norm [D] and, where there are such, q_bias, k_bias, v_bias, q_norm, k_norm.
    """

    hidden_size: int
    input_width: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    rms_eps: float
    rope_inv_freq: Floats
    rope_scale: float
    matrices: Mapping[str, Floats]
    vectors: Mapping[str, Floats]
    window: int = 0


class GivenLayer(Protocol):
    """The layer, with rows of keys and values of its own. It computes drafts: weights may be rounded."""

    @property
    def max_nodes(self) -> int:
        """The most tokens of a call."""

    def open(self) -> int:
        """A row without tokens."""

    def fork(self, row: int) -> int:
        """A new row with the same tokens. CacheFull if there is no memory left."""

    def free(self, row: int) -> None:
        """Give a row back."""

    def length(self, row: int) -> int:
        """How many tokens the row holds."""

    def score(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        parents: Sequence[int],
        read: Floats,
        residuals: Floats,
        *,
        whole: bool = False,
    ) -> Floats:
        """f32[n, D], what stands behind the layer for n nodes of some rows; nothing is committed.

        starts     n_0 = 0, n_1, ...: row r has the nodes n_r to n_(r+1) - 1.
        parents    of each node, its number within the row; -1 for the first one.
        read       f32[n, W], what the attention is made of. residuals: f32[n, D], what the layer adds to.
        whole      every node sees all of its row's, those behind it too; each row is a chain then.

        CacheFull if there is no memory left for these rows.
        """

    def keep(self, row: int, path: Iterable[int]) -> None:
        """Commit the first node of the row's last call, and a path behind it."""

    def product(self, weight: Floats) -> Product:
        """A matrix f32[M, K] where the layer computes, as precise as its own."""
