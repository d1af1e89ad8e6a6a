"""A decoder layer of its own in the native engine (`core/layers.py`), beside a target of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.layers import Floats, LayerSpec
from outpace.targets.native_products import NativeProduct, packed_matrix

if TYPE_CHECKING:
    from outpace._native import Decoder

KIND = "q8s"  # of its matrices; with "f32" keys and values are not rounded either
CACHE_TOKENS = 1 << 18  # that all rows together may hold; memory is used as they come
ALIGNMENT = 64

Tensors = dict[str, tuple[str, int, int, int, int]]
"""name -> (kind, rows, cols, offset, bytes), as the engine takes them."""


class NativeLayer:
    """See `core.layers.GivenLayer`.

    beside  a decoder whose threads it uses, which work in turns for both: those of another one that has just
            been called go on spinning for a while. `threads` have no effect then.
    """

    def __init__(self, spec: LayerSpec, *, threads: int, beside: Decoder | None = None) -> None:
        from outpace import _native

        fields = {
            "vocab_size": 1, "hidden_size": spec.hidden_size, "num_layers": 1, "num_heads": spec.num_heads,
            "num_kv_heads": spec.num_kv_heads, "head_dim": spec.head_dim,
            "intermediate_size": spec.intermediate_size, "context_length": spec.context_length,
            "rms_eps": spec.rms_eps, "activation": "silu", "attention_scale": spec.head_dim**-0.5,
            "embedding_scale": 1.0, "rope_inv_freq": [spec.rope_inv_freq.tolist()],
            "rope_scale": [spec.rope_scale], "layer_rope": [0], "layer_window": [spec.window],
            "layer_order": [], "loop_norm": False, "input_width": spec.input_width,
        }  # fmt: skip
        tensors, buffer = _packed(spec)
        room = max(spec.context_length, CACHE_TOKENS)
        try:
            self.decoder = _native.Decoder(fields, tensors, buffer, threads, KIND != "f32", room, beside)
        except ValueError as error:
            raise OutpaceError(str(error)) from None
        except (RuntimeError, MemoryError) as error:
            raise OutpaceError(f"no memory for another layer: {error}") from None
        self.max_nodes: int = _native.Decoder.max_nodes

    def open(self) -> int:
        """A row without tokens."""
        return self.decoder.open()

    def fork(self, row: int) -> int:
        """A new row with the same tokens; full pages are shared."""
        try:
            return self.decoder.fork(row)
        except RuntimeError as error:
            raise CacheFull(str(error)) from None

    def free(self, row: int) -> None:
        """Give a row back."""
        self.decoder.close(row)

    def length(self, row: int) -> int:
        """How many tokens the row holds."""
        return self.decoder.length(row)

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
        """What stands behind the layer; nothing is committed. An OutpaceError for nodes that do not fit."""
        try:
            self.decoder.score_given(rows, starts, parents, read, residuals, whole)
        except ValueError as error:
            raise OutpaceError(str(error)) from None
        except RuntimeError as error:
            raise CacheFull(str(error)) from None
        return self.decoder.hidden(0)

    def keep(self, row: int, path: Iterable[int]) -> None:
        """Commit the first node of the row's last call, and a path behind it."""
        self.decoder.keep(row, list(path))

    def product(self, weight: Floats) -> NativeProduct:
        """A matrix f32[M, K] on the layer's own threads."""
        return NativeProduct(self.decoder, packed_matrix(np.ascontiguousarray(weight, np.float32), KIND))


def _packed(spec: LayerSpec) -> tuple[Tensors, NDArray[np.uint8]]:
    """The layer's tensors as the engine wants them: where each lies in one buffer, and that."""
    parts: dict[str, tuple[str, int, int, NDArray[np.uint8]]] = {
        f"layers.0.{name}": packed_matrix(np.ascontiguousarray(matrix, np.float32), KIND)
        for name, matrix in spec.matrices.items()
    }
    # The engine has no model without these two; nobody reads what it makes of them.
    parts["embed"] = packed_matrix(np.zeros((1, spec.hidden_size), np.float32), "f32")
    vectors = {f"layers.0.{name}": vector for name, vector in spec.vectors.items()}
    vectors["final_norm"] = np.ones(spec.hidden_size, np.float32)
    for name, vector in vectors.items():
        parts[name] = "f32", len(vector), 1, np.ascontiguousarray(vector, np.float32).view(np.uint8)
    tensors: Tensors = {}
    end = 0
    for name, (kind, rows, cols, data) in parts.items():
        tensors[name] = kind, rows, cols, end, data.nbytes
        end += -(-data.nbytes // ALIGNMENT) * ALIGNMENT
    room = np.zeros(end + ALIGNMENT, np.uint8)
    buffer = room[-room.ctypes.data % ALIGNMENT :][:end]
    for name, (_, _, _, data) in parts.items():
        start = tensors[name][3]
        buffer[start : start + data.nbytes] = data
    return tensors, buffer
