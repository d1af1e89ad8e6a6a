"""The packed form of a matrix: tiles of 16 outputs, their inputs in the order in which the kernels read them.

A tile holds, for 16 rows (outputs) c = 0..15 of the matrix, one quants block per group of 32 inputs k, then
one section of scales. Rows are padded with zeros to a multiple of 16, inputs to a multiple of 32.

Quants block of one group (q unsigned):
  low nibbles (4-, 5- and 6-bit kinds): 4 chunks j of 64 bytes; byte 4c + b holds the low four bits of
      q[c][8j + b] in its low and of q[c][8j + 4 + b] in its high nibble (b = 0..3);
  a plane of 64 bytes for bit 4 (5- and 6-bit kinds), then one for bit 5 (6-bit): 8 little-endian u64 words,
      bit 4c + b of word i belongs to q[c][4i + b];
  8-bit kind: 8 chunks i of 64 bytes; byte 4c + b is q[c][4i + b].
Scales section: per group 16 f16 scales, then 16 f16 minimums where the kind has them (scales of inputs 0..15,
then of 16..31, for the 6-bit kind with groups of 16); padded to a multiple of 64 bytes.
Float kinds: a tile is values[K padded][16].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from outpace.files.quants import Blocks, bf16_to_f32

TILE = 16  # outputs per tile
GROUP = 32  # inputs per quants block


@dataclass(frozen=True, slots=True)
class Layout:
    """How a quantised kind is stored. A weight is scale * q + minimum, or scale * (q - offset)."""

    bits: int
    group: int  # inputs that share a scale
    has_minimum: bool
    offset: int

    @property
    def block_bytes(self) -> int:
        """Bytes of the quants of 16 outputs x 32 inputs."""
        return TILE * GROUP * self.bits // 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scales (and minimums) of 16 outputs x 32 inputs."""
        return TILE * 2 * (GROUP // self.group) * (2 if self.has_minimum else 1)


LAYOUTS: dict[str, Layout] = {
    "q4m": Layout(4, 32, True, 0),
    "q4s": Layout(4, 32, False, 8),
    "q5m": Layout(5, 32, True, 0),
    "q5s": Layout(5, 32, False, 16),
    "q6s": Layout(6, 16, False, 32),
    "q8s": Layout(8, 32, False, 128),
}
FLOAT_BYTES: dict[str, int] = {"f32": 4, "bf16": 2, "f16": 2}
KIND_OF_TYPE: dict[str, str] = {
    "Q4_0": "q4s", "Q4_1": "q4m", "Q4_K": "q4m", "Q5_0": "q5s", "Q5_1": "q5m", "Q5_K": "q5m", "Q6_K": "q6s",
    "Q8_0": "q8s", "F16": "f16", "BF16": "bf16", "F32": "f32",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """One tensor of a packed file. A vector has kind "f32", cols = 1 and tile_bytes = 0: plain f32[rows]."""

    kind: str
    rows: int  # out_features
    cols: int  # in_features
    offset: int  # bytes from the start of the file
    nbytes: int
    tile_bytes: int


def tile_bytes(kind: str, cols: int) -> int:
    """Bytes of one tile of 16 outputs and `cols` inputs: a multiple of 64."""
    groups = -(-cols // GROUP)
    if kind in FLOAT_BYTES:
        return groups * GROUP * TILE * FLOAT_BYTES[kind]
    layout = LAYOUTS[kind]
    return groups * layout.block_bytes + _padded(groups * layout.scale_bytes, 64)


def matrix_bytes(kind: str, rows: int, cols: int) -> int:
    """Bytes of a packed matrix."""
    return -(-rows // TILE) * tile_bytes(kind, cols)


def pack_blocks(kind: str, blocks: Blocks) -> np.ndarray:
    """Packs quantised rows (whole tiles, except at the end of a matrix) -> u8[tiles, tile_bytes]."""
    layout = LAYOUTS[kind]
    assert (blocks.group, blocks.offset) == (layout.group, layout.offset), kind
    assert (blocks.minimum is not None) == layout.has_minimum, kind
    rows, cols = blocks.q.shape
    tiles, groups = -(-rows // TILE), -(-cols // GROUP)
    out = np.zeros((tiles, tile_bytes(kind, cols)), np.uint8)
    quants = out[:, : groups * layout.block_bytes].reshape(tiles, groups, layout.block_bytes)
    q = _pad_to(blocks.q, tiles * TILE, groups * GROUP)
    # Four neighbouring inputs always travel together, so they move as one u32.
    fours = q.view("<u4").reshape(tiles, TILE, groups, 8).transpose(0, 2, 3, 1)  # [T, G, 8, 16]
    if layout.bits == 8:
        quants.view("<u4").reshape(tiles, groups, 8, TILE)[:] = fours
    else:
        _pack_nibbles(fours, quants[:, :, :256].view("<u4"))
        for bit in range(4, layout.bits):
            start = 256 + 64 * (bit - 4)
            quants[:, :, start : start + 64] = _bit_plane(fours, bit)
    parts = [blocks.scale] if blocks.minimum is None else [blocks.scale, blocks.minimum]
    per_group = GROUP // layout.group  # scales of one output in one group of 32
    scales = np.empty((tiles, groups, len(parts), per_group, TILE), "<f2")
    for i, part in enumerate(parts):
        padded = _pad_to(part.astype("<f2", copy=False), tiles * TILE, groups * per_group)
        scales[:, :, i] = padded.reshape(tiles, TILE, groups, per_group).transpose(0, 2, 3, 1)
    start = groups * layout.block_bytes
    out[:, start : start + groups * layout.scale_bytes] = scales.view(np.uint8).reshape(tiles, -1)
    return out


def pack_floats(kind: str, rows: np.ndarray) -> np.ndarray:
    """Packs float rows (raw u8[R, K * itemsize], of the kind's own type) -> u8[tiles, tile_bytes]."""
    size = FLOAT_BYTES[kind]
    values = np.ascontiguousarray(rows).view(f"<u{size}")
    tiles, cols = -(-values.shape[0] // TILE), _padded(values.shape[1], GROUP)
    tiled = _pad_to(values, tiles * TILE, cols).reshape(tiles, TILE, cols).transpose(0, 2, 1)
    return np.ascontiguousarray(tiled).reshape(tiles, -1).view(np.uint8)


def unpack(tensor: PackedTensor, buffer: np.ndarray) -> np.ndarray:
    """Exactly dequantises a tensor of a packed file: f32[rows, cols], or f32[rows] for a vector."""
    raw = np.asarray(buffer[tensor.offset : tensor.offset + tensor.nbytes])
    if not tensor.tile_bytes:
        return raw.view("<f4").astype(np.float32)
    raw = raw.reshape(-1, tensor.tile_bytes)
    tiles, groups = len(raw), -(-tensor.cols // GROUP)
    if tensor.kind in FLOAT_BYTES:
        bits = raw.view(f"<u{FLOAT_BYTES[tensor.kind]}").reshape(tiles, groups * GROUP, TILE)
        values = bf16_to_f32(bits) if tensor.kind == "bf16" else bits.view(f"<f{bits.itemsize}")
        whole = values.transpose(0, 2, 1).reshape(tiles * TILE, -1).astype(np.float32)
    else:
        whole = _unpack_blocks(LAYOUTS[tensor.kind], raw, tiles, groups).dequantise()
    return whole[: tensor.rows, : tensor.cols]


def _unpack_blocks(layout: Layout, raw: np.ndarray, tiles: int, groups: int) -> Blocks:
    start = groups * layout.block_bytes
    quants = raw[:, :start].reshape(tiles, groups, layout.block_bytes)
    if layout.bits == 8:
        q = quants.reshape(tiles, groups, 8, TILE, 4)
    else:
        low = quants[:, :, :256].reshape(tiles, groups, 4, 1, TILE, 4)  # chunk j, byte 4c + b
        q = np.concatenate([low & 15, low >> 4], axis=3).reshape(tiles, groups, 8, TILE, 4)
        for bit in range(4, layout.bits):
            plane = quants[:, :, 256 + 64 * (bit - 4) :][:, :, :64]
            q |= np.unpackbits(plane, axis=2, bitorder="little").reshape(q.shape) << bit
    per_group = GROUP // layout.group
    scales = np.ascontiguousarray(raw[:, start : start + groups * layout.scale_bytes]).view("<f2")
    parts = scales.reshape(tiles, groups, -1, per_group, TILE).transpose(2, 0, 4, 1, 3)
    parts = parts.reshape(-1, tiles * TILE, groups * per_group)
    whole = q.transpose(0, 3, 1, 2, 4).reshape(tiles * TILE, groups * GROUP)  # [T, c, G, i, b]
    return Blocks(whole, parts[0], parts[1] if layout.has_minimum else None, layout.offset, layout.group)


def _pack_nibbles(fours: np.ndarray, out: np.ndarray) -> None:
    """Packs u32[T, G, 8, 16] (four 4-bit values each) into u32[T, G, 64]."""
    low, high = fours[:, :, 0::2], fours[:, :, 1::2]
    mask = np.uint32(0x0F0F0F0F)
    out.reshape(*low.shape)[:] = (low & mask) | (high & mask) << np.uint32(4)


def _bit_plane(fours: np.ndarray, bit: int) -> np.ndarray:
    """Bit `bit` of every value of u32[T, G, 8, 16] -> u8[T, G, 64], the bits of four values side by side."""
    # The product moves the lowest bits of the four bytes to bits 28..31 without a carry.
    gathered = (fours >> np.uint32(bit) & np.uint32(0x01010101)) * np.uint32(0x10204080) >> np.uint32(28)
    nibbles = gathered.astype(np.uint8)  # [T, G, 8, 16]
    return (nibbles[..., 0::2] | nibbles[..., 1::2] << 4).reshape(*fours.shape[:2], 64)


def _pad_to(array: np.ndarray, rows: int, cols: int) -> np.ndarray:
    if array.shape == (rows, cols):
        return np.ascontiguousarray(array)
    out = np.zeros((rows, cols), array.dtype)
    out[: array.shape[0], : array.shape[1]] = array
    return out


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
