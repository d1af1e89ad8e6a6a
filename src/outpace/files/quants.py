"""Block-quantised weights: GGML's block types taken apart into integers, scales and minimums; two quantisers.

Reference: the block structs of ggml-org/ggml src/ggml-common.h. Nothing is requantised: the integers stay
those of the file. Scales and minimums become f16, which for the K-quants means that the product of the
super-block's scale and the sub-block's 6- or 8-bit factor is rounded once to f16 (a relative change of at
most 2**-11).

R rows (outputs), K columns (inputs), G groups of `group` columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The bits of infinity; those of NaN are above them.
_INFINITY = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}


@dataclass(frozen=True, slots=True)
class Blocks:
    """Quantised rows in the canonical form.

    The value of a weight is `scale * q + minimum` where there is a minimum, else `scale * (q - offset)`.
    """

    q: np.ndarray  # u8[R, K]
    scale: np.ndarray  # f16[R, G]
    minimum: np.ndarray | None  # f16[R, G]
    offset: int
    group: int  # columns that share a scale

    def is_finite(self) -> bool:
        """No scale or minimum is NaN, infinite or beyond f16, so that all weights are numbers."""
        parts = (self.scale, self.minimum)
        return all(part is None or bool(np.isfinite(part).all()) for part in parts)

    def dequantise(self) -> np.ndarray:
        """f32[R, K]."""
        scale = np.repeat(self.scale.astype(np.float32), self.group, axis=1)[:, : self.q.shape[1]]
        if self.minimum is None:
            return scale * (self.q.astype(np.float32) - np.float32(self.offset))
        return (
            scale * self.q
            + np.repeat(self.minimum.astype(np.float32), self.group, axis=1)[:, : self.q.shape[1]]
        )


def take_apart(type_name: str, rows: np.ndarray) -> Blocks:
    """The blocks of `rows` (u8[R, bytes per row]), whose GGML type is a key of `QUANTISED`."""
    take, nbytes = _TAKE[type_name]
    num_rows = len(rows)
    blocks = np.ascontiguousarray(rows).reshape(-1, nbytes)
    with np.errstate(all="ignore"):  # a corrupt file may hold NaN or infinite scales
        q, scale, minimum, offset = take(blocks)
    q = q.reshape(num_rows, -1)
    scale = scale.reshape(num_rows, -1)
    if minimum is not None:
        minimum = minimum.reshape(num_rows, -1)
    return Blocks(q, scale, minimum, offset, q.shape[1] // scale.shape[1])


def is_finite(type_name: str, rows: np.ndarray) -> bool:
    """Whether all values of float rows (u8[R, bytes per row]) of type F32, F16 or BF16 are numbers."""
    form, infinity = _INFINITY[type_name]
    bits = np.ascontiguousarray(rows).view(form)
    without_sign = bits & (np.iinfo(bits.dtype).max >> 1)
    return int(without_sign.max()) < infinity


def widen(type_name: str, rows: np.ndarray) -> np.ndarray:
    """Float rows of GGML type F32, F16 or BF16 (u8[R, bytes per row]) as f32[R, K]."""
    rows = np.ascontiguousarray(rows)
    if type_name == "F32":
        return rows.view("<f4").astype(np.float32)
    if type_name == "F16":
        with np.errstate(invalid="ignore"):  # signalling NaN
            return rows.view("<f2").astype(np.float32)
    assert type_name == "BF16", type_name
    return bf16_to_f32(rows.view("<u2"))


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """u16 bit patterns of bfloat16 -> f32 of the same shape."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def quantise_q8(weights: np.ndarray) -> Blocks:
    """f32[R, K] -> 8 bit, groups of 32, offset 128; the largest magnitude of a group is 127 steps."""
    x = _grouped(weights)  # [R, G, 32]
    scale = _to_f16(np.abs(x).max(axis=2) / np.float32(127))
    steps = _divide(x, scale)
    q = (np.clip(np.rint(steps), -127, 127) + 128).astype(np.uint8)
    return Blocks(q.reshape(len(x), -1)[:, : weights.shape[1]], scale, None, 128, 32)


def quantise_q4(weights: np.ndarray) -> Blocks:
    """f32[R, K] -> 4 bit with a minimum, groups of 32.

    The range of a group first spans 15 steps; then scale and minimum are refitted to the chosen integers by
    least squares, which lowers the squared error, and the integers are rounded once more.
    """
    x = _grouped(weights)  # [R, G, 32]
    low = x.min(axis=2)
    scale = (x.max(axis=2) - low) / np.float32(15)
    q = _round_q4(x, scale, low)
    mean_q, mean_x = q.mean(axis=2), x.mean(axis=2)
    spread = np.square(q - mean_q[:, :, None]).sum(axis=2)
    slope = ((q - mean_q[:, :, None]) * (x - mean_x[:, :, None])).sum(axis=2)
    fitted = spread > 0
    refit = np.divide(slope, spread, out=scale.copy(), where=fitted)
    scale16 = _to_f16(refit)
    low16 = _to_f16(np.where(fitted, mean_x - refit * mean_q, low))
    q = _round_q4(x, scale16.astype(np.float32), low16.astype(np.float32))
    return Blocks(q.astype(np.uint8).reshape(len(x), -1)[:, : weights.shape[1]], scale16, low16, 0, 32)


def _round_q4(x: np.ndarray, scale: np.ndarray, low: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(_divide(x - low[:, :, None], scale)), 0, 15)


def _divide(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """x[R, G, 32] / scale[R, G], zero where the scale is zero."""
    wide = scale.astype(np.float32)[:, :, None]
    return np.divide(x, wide, out=np.zeros_like(x), where=wide != 0)


def _grouped(weights: np.ndarray) -> np.ndarray:
    """f32[R, K] -> f32[R, G, 32]; repeats the last value, so that padding never widens a group's range."""
    missing = -weights.shape[1] % 32
    padded = np.pad(weights.astype(np.float32, copy=False), ((0, 0), (0, missing)), mode="edge")
    return padded.reshape(len(weights), -1, 32)


def _to_f16(values: np.ndarray) -> np.ndarray:
    """Infinite where f16 has no such number."""
    with np.errstate(over="ignore"):
        return values.astype(np.float16)


# --- GGML block types: each function takes B blocks apart into (q, scale, minimum, offset).

_Parts = tuple[np.ndarray, np.ndarray, np.ndarray | None, int]


def _f16(blocks: np.ndarray, at: int) -> np.ndarray:
    """The f16 at byte `at` of every block: [B, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2")


def _nibbles(packed: np.ndarray) -> np.ndarray:
    """[..., n] bytes -> [..., 2n]: all low nibbles, then all high nibbles."""
    return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _fifth_bits(blocks: np.ndarray, at: int) -> np.ndarray:
    """The 32 fifth bits at byte `at` of every block, moved to bit 4: u8[B, 32]."""
    return np.unpackbits(blocks[:, at : at + 4], axis=1, bitorder="little") << 4


def _q4_0(blocks: np.ndarray) -> _Parts:
    return _nibbles(blocks[:, 2:]), _f16(blocks, 0), None, 8


def _q4_1(blocks: np.ndarray) -> _Parts:
    return _nibbles(blocks[:, 4:]), _f16(blocks, 0), _f16(blocks, 2), 0


def _q5_0(blocks: np.ndarray) -> _Parts:
    return _nibbles(blocks[:, 6:]) | _fifth_bits(blocks, 2), _f16(blocks, 0), None, 16


def _q5_1(blocks: np.ndarray) -> _Parts:
    return _nibbles(blocks[:, 8:]) | _fifth_bits(blocks, 4), _f16(blocks, 0), _f16(blocks, 2), 0


def _q8_0(blocks: np.ndarray) -> _Parts:
    return blocks[:, 2:] ^ 0x80, _f16(blocks, 0), None, 128  # i8 -> u8 + 128 flips the sign bit


def _k_scales(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The f16 scales and (negated) minimums [B, 8] of Q4_K and Q5_K: d and dmin, then 8 + 8 six-bit factors.

    Bytes 0-3 hold factors 0-3 of the scales, 4-7 those of the minimums, 8-11 the low nibbles of factors 4-7
    of both; their upper two bits are on top of bytes 0-3 and 4-7.
    """
    packed = blocks[:, 4:16]
    low, high, mixed = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    factors = np.concatenate([low & 63, (mixed & 15) | (low >> 6 << 4)], axis=1)
    min_factors = np.concatenate([high & 63, (mixed >> 4) | (high >> 6 << 4)], axis=1)
    d, dmin = _f16(blocks, 0).astype(np.float32), _f16(blocks, 2).astype(np.float32)
    return _to_f16(d * factors), _to_f16(-dmin * min_factors)


def _k_nibbles(packed: np.ndarray) -> np.ndarray:
    """u8[B, 128] -> u8[B, 8, 32]: 32 bytes hold one sub-block in the low and the next in the high nibbles."""
    return _nibbles(packed.reshape(-1, 4, 32)).reshape(-1, 8, 32)


def _q4_k(blocks: np.ndarray) -> _Parts:
    scale, minimum = _k_scales(blocks)
    return _k_nibbles(blocks[:, 16:]), scale, minimum, 0


def _q5_k(blocks: np.ndarray) -> _Parts:
    scale, minimum = _k_scales(blocks)
    bits = np.arange(8, dtype=np.uint8)[None, :, None]
    fifth = (blocks[:, None, 16:48] >> bits & 1) << 4  # bit s of byte k belongs to value k of sub-block s
    return _k_nibbles(blocks[:, 48:]) | fifth, scale, minimum, 0


def _q6_k(blocks: np.ndarray) -> _Parts:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shifts & 3
    factors = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    scale = _to_f16(_f16(blocks, 208).astype(np.float32) * factors)
    return low | high << 4, scale, None, 32


_TAKE: dict[str, tuple[Callable[[np.ndarray], _Parts], int]] = {
    "Q4_0": (_q4_0, 18),
    "Q4_1": (_q4_1, 20),
    "Q5_0": (_q5_0, 22),
    "Q5_1": (_q5_1, 24),
    "Q8_0": (_q8_0, 34),
    "Q4_K": (_q4_k, 144),
    "Q5_K": (_q5_k, 176),
    "Q6_K": (_q6_k, 210),
}
QUANTISED = frozenset(_TAKE)
