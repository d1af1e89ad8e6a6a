"""Random packed matrices, and what the kernels do to activations, in numpy."""

from __future__ import annotations

import numpy as np

from outpace.files.packing import (
    FLOAT_BYTES,
    LAYOUTS,
    PackedTensor,
    pack_blocks,
    pack_floats,
    tile_bytes,
    unpack,
)
from outpace.files.quants import Blocks


def packed(kind: str, rows: int, cols: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A random matrix of a kind: its bytes, aligned as in a file, and its values f32[rows, cols]."""
    if kind in FLOAT_BYTES:
        values = rng.standard_normal((rows, cols)).astype(np.float32)
        if kind == "bf16":
            raw = (values.view(np.uint32) >> 16).astype("<u2")
        else:
            raw = values.astype("<f2" if kind == "f16" else "<f4")
        tiles = pack_floats(kind, raw.view(np.uint8).reshape(rows, -1))
    else:
        layout = LAYOUTS[kind]
        groups = -(-cols // layout.group)
        q = rng.integers(0, 2**layout.bits, (rows, cols), dtype=np.uint8)
        scale = rng.uniform(0.001, 0.1, (rows, groups)).astype(np.float16)
        low = rng.uniform(-1, 1, (rows, groups)).astype(np.float16) if layout.has_minimum else None
        tiles = pack_blocks(kind, Blocks(q, scale, low, layout.offset, layout.group))
    data = aligned(tiles.reshape(-1))
    place = PackedTensor(kind, rows, cols, 0, data.size, tile_bytes(kind, cols))
    return data, unpack(place, data)


def aligned(data: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes."""
    room = np.empty(data.size + 64, np.uint8)
    start = -room.ctypes.data % 64
    room[start : start + data.size] = data
    return room[start : start + data.size]


def quantised(x: np.ndarray) -> np.ndarray:
    """f64[M, K]: activations after rounding to 8 bit with one scale per token and group of 32."""
    padded = np.pad(x, ((0, 0), (0, -x.shape[1] % 32))).reshape(len(x), -1, 32)
    largest = np.abs(padded).max(axis=2, keepdims=True)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=largest > 0)
    q = np.rint(padded * inverse)
    return (q.astype(np.float64) * (largest / np.float32(127))).reshape(len(x), -1)[:, : x.shape[1]]
