"""Extra matrices of a native model, multiplied by its kernels on its threads: heads, rows of the output.

A matrix is packed once (see `files/packing.py`): to 8 bit in groups of 32 where the model is quantised, for
drafts to 4 bit; where its weights are floats, nothing is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.files.packing import (
    FLOAT_BYTES,
    TILE,
    PackedTensor,
    matrix_bytes,
    pack_blocks,
    pack_floats,
    tile_bytes,
)
from outpace.files.quants import quantise_q4, quantise_q8

if TYPE_CHECKING:
    from outpace._native import Decoder
    from outpace.files.packed import PackedFile

_ALIGNMENT = 64
LEAST_WEIGHTS = 1 << 18  # of a matrix that is worth 4 bits: a smaller one stays in the caches
_ROWS_AT_ONCE = 1024  # packing needs several times the memory of the rows that it works on

QUANTISERS = {"q8s": quantise_q8, "q4m": quantise_q4}

PackedMatrix = tuple[str, int, int, NDArray[np.uint8]]
"""(kind, M, K, its tiles), as the kernels take it."""


class NativeProduct:
    """A matrix [M, K] (see `core/products.py`). Products leave the scores of the last call valid.

    matrix  packed, or f32[M, K]: floats are packed to 8 bit at the first call, so that a matrix which is
            rounded before is packed once.
    """

    __slots__ = ("_decoder", "_given", "num_outputs")

    def __init__(self, decoder: Decoder, matrix: PackedMatrix | NDArray[np.float32]) -> None:
        self._decoder = decoder
        self._given = matrix
        self.num_outputs = len(matrix) if isinstance(matrix, np.ndarray) else matrix[1]

    @property
    def _matrix(self) -> PackedMatrix:
        if isinstance(self._given, np.ndarray):
            self._given = packed_matrix(self._given, "q8s")
        return self._given

    @property
    def kind(self) -> str:
        """The kind of packed matrix: a key of `files.packing.LAYOUTS` or of `FLOAT_BYTES`."""
        return self._matrix[0]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, K] -> f32[n, M]; a row's bits do not depend on the others."""
        return self._decoder.product(*self._matrix, x)

    def rounded(self) -> NativeProduct:
        """In 4 bit, where it is to be packed and not small; else as it is."""
        if not isinstance(self._given, np.ndarray) or self._given.size < LEAST_WEIGHTS:
            return self
        return NativeProduct(self._decoder, packed_matrix(self._given, "q4m"))

    def top(self, x: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """f32[n, K] -> ([n, k] rows of the matrix, [n, k] outputs): best first, the lower row on ties."""
        if 1 <= k <= min(self._decoder.max_top, self.num_outputs):
            return self._decoder.product_top(*self._matrix, x, k)
        outputs = self(x)
        ids = np.argsort(-outputs, axis=1, kind="stable")[:, :k]
        return ids, np.take_along_axis(outputs, ids, axis=1)


def product_of(decoder: Decoder, weights: PackedFile, weight: NDArray[np.float32]) -> NativeProduct:
    """A matrix f32[M, K] of the caller's, for the model of these weights."""
    weight = np.ascontiguousarray(weight, np.float32)
    if any(tensor.kind not in FLOAT_BYTES for tensor in weights.tensors.values()):
        return NativeProduct(decoder, weight)
    return NativeProduct(decoder, packed_matrix(weight, floats_kind(weight)))


def projection_of(
    decoder: Decoder, weights: PackedFile, token_ids: NDArray[np.integer] | None
) -> NativeProduct:
    """The model's output matrix, where it lies, or a copy of these rows of it: logits, as none is capped.

    An OutpaceError for no rows, or for rows that it does not have.
    """
    output, data = _output(weights)
    if token_ids is None:
        return NativeProduct(decoder, (output.kind, output.rows, output.cols, data))
    ids = np.asarray(token_ids)
    if ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= output.rows:
        raise OutpaceError(f"a projection takes one or more token ids, accepted are 0 to {output.rows - 1}")
    rows = _rows(output, data, ids)
    if output.kind in FLOAT_BYTES:
        return NativeProduct(decoder, packed_matrix(rows, output.kind))
    return NativeProduct(decoder, rows)


def output_rows(weights: PackedFile, token_ids: NDArray[np.integer] | None) -> NDArray[np.float32]:
    """f32[M, D]: the output matrix, or these rows of it, as floats."""
    output, data = _output(weights)
    return _rows(output, data, np.arange(output.rows) if token_ids is None else np.asarray(token_ids))


def input_rows(weights: PackedFile, token_ids: NDArray[np.integer]) -> NDArray[np.float32]:
    """f32[M, D]: these rows of the input embedding, as floats."""
    return _rows(*_stored(weights, weights.tensors["embed"]), np.asarray(token_ids))


def _output(weights: PackedFile) -> tuple[PackedTensor, NDArray[np.uint8]]:
    return _stored(weights, weights.tensors.get("output") or weights.tensors["embed"])


def _stored(weights: PackedFile, tensor: PackedTensor) -> tuple[PackedTensor, NDArray[np.uint8]]:
    return tensor, np.asarray(weights.buffer)[tensor.offset : tensor.offset + tensor.nbytes]


def _rows(tensor: PackedTensor, data: NDArray[np.uint8], rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """These rows of a packed matrix f32[n, K], every tile unpacked once, as far as its last row of these."""
    from outpace import _native

    tiles = data.reshape(-1, tensor.tile_bytes)
    out = np.empty((len(rows), tensor.cols), np.float32)
    order = np.argsort(rows, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(rows[order] // TILE)) + 1):
        tile = tiles[rows[places[0]] // TILE]
        wanted = rows[places] % TILE
        out[places] = _native.unpack(tensor.kind, int(wanted.max()) + 1, tensor.cols, tile)[wanted]
    return out


def floats_kind(weight: NDArray[np.float32]) -> str:
    """The smallest kind that holds these floats exactly: what was stored as bf16 needs no more."""
    halves = not (np.ascontiguousarray(weight).view(np.uint32) & 0xFFFF).any()
    return "bf16" if halves else "f32"


def packed_matrix(weight: NDArray[np.float32], kind: str) -> PackedMatrix:
    """A matrix f32[M, K] as a kind."""
    assert weight.dtype == np.float32, "bf16 looks at the bits"
    rows, cols = weight.shape
    size = matrix_bytes(kind, rows, cols)
    room = np.empty(size + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    data = room[start : start + size]
    tiles = data.reshape(-1, tile_bytes(kind, cols))
    for at in range(0, rows, _ROWS_AT_ONCE):
        part = _pack(weight[at : at + _ROWS_AT_ONCE], kind)
        tiles[at // TILE : at // TILE + len(part)] = part
    return kind, rows, cols, data


def _pack(weight: NDArray[np.float32], kind: str) -> NDArray[np.uint8]:
    """u8[tiles, tile_bytes]; of floats, those that the kind can hold exactly."""
    if kind in QUANTISERS:
        return pack_blocks(kind, QUANTISERS[kind](weight))
    if kind == "bf16":
        raw = (np.ascontiguousarray(weight).view(np.uint32) >> 16).astype("<u2")
    else:
        raw = weight.astype(f"<f{FLOAT_BYTES[kind]}")
    return pack_floats(kind, raw.view(np.uint8))
