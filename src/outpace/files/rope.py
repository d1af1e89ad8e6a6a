"""Rotary embedding tables with their scalings for longer contexts.

References: RoFormer (Su et al. 2021, arXiv:2104.09864); linear: position interpolation (Chen et al. 2023,
arXiv:2306.15595); yarn: YaRN (Peng et al. 2023, arXiv:2309.00071); llama3: the frequency smoothing that
came with Llama 3.1. Parameter names are those of Hugging Face's `rope_scaling` / `rope_parameters`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from outpace.core.errors import FormatError

BASES = (1.0, 1e15)
FACTORS = (0.0, 1e6)  # 0 where there is none
SCALINGS = ("default", "linear", "dynamic", "llama3", "yarn")
_LEAST, _MOST = 1e-6, 1e9


def rope_table(
    head_dim: int, base: float, *, scaling: dict[str, Any] | None = None, context_length: int
) -> tuple[np.ndarray, float]:
    """(inverse frequencies f32[head_dim / 2], factor for cosine and sine).

    `scaling` holds "rope_type" (or "type") and its parameters. Dynamic scaling only acts beyond
    `context_length`, which is never exceeded, so it leaves the table alone. FormatError for an unknown
    scaling or a bad parameter.
    """
    least, most = BASES
    if not least < base <= most:
        raise FormatError(f"the rotary base is {base!r}; accepted: a number above {least:g}, up to {most:g}")
    inv_freq = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    scaling = scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    attention_factor = 1.0
    if kind == "linear":
        inv_freq = inv_freq / positive(scaling, "factor")
    elif kind == "llama3":
        inv_freq = _llama3(inv_freq, scaling)
    elif kind == "yarn":
        inv_freq, attention_factor = _yarn(inv_freq, base, scaling, context_length)
    elif kind not in ("default", "dynamic"):
        raise FormatError(f"rope scaling {kind!r} is not supported; accepted: {', '.join(SCALINGS)}")
    return inv_freq.astype(np.float32), attention_factor


def positive(scaling: dict[str, Any], name: str, default: float | None = None) -> float:
    """The parameter `name`, a positive number; else a FormatError."""
    value = scaling.get(name)
    if value is None:
        value = default
    if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST <= value <= _MOST:
        raise FormatError(
            f"rope scaling: {name} is {value!r:.60}; accepted: a number from {_LEAST:g} to {_MOST:g}"
        )
    return float(value)


def _llama3(inv_freq: np.ndarray, scaling: dict[str, Any]) -> np.ndarray:
    factor = positive(scaling, "factor")
    low, high = positive(scaling, "low_freq_factor"), positive(scaling, "high_freq_factor")
    original = positive(scaling, "original_max_position_embeddings")
    if high <= low:
        raise FormatError(f"rope scaling: high_freq_factor {high} is not above low_freq_factor {low}")
    # 0 for waves longer than original / low (interpolated), 1 for those shorter than original / high (kept).
    smooth = np.clip((original * inv_freq / (2 * math.pi) - low) / (high - low), 0.0, 1.0)
    return (1 - smooth) * inv_freq / factor + smooth * inv_freq


def _yarn(
    inv_freq: np.ndarray, base: float, scaling: dict[str, Any], context_length: int
) -> tuple[np.ndarray, float]:
    half = len(inv_freq)
    original = positive(scaling, "original_max_position_embeddings", context_length)
    factor = positive(scaling, "factor", context_length / original)

    def dimension(rotations: float) -> float:
        """The (fractional) pair that makes so many rotations within the original context."""
        return half * math.log(original / (rotations * 2 * math.pi)) / math.log(base)

    low = dimension(positive(scaling, "beta_fast", 32.0))
    high = dimension(positive(scaling, "beta_slow", 1.0))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * half - 1)
    ramp = np.clip((np.arange(half) - low) / max(high - low, 0.001), 0.0, 1.0)
    inv_freq = inv_freq * (1 - ramp) + inv_freq / factor * ramp

    attention_factor = scaling.get("attention_factor")
    if attention_factor is not None:
        return inv_freq, positive(scaling, "attention_factor")
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        ratio = _magnitude(factor, positive(scaling, "mscale"))
        return inv_freq, ratio / _magnitude(factor, positive(scaling, "mscale_all_dim"))
    return inv_freq, _magnitude(factor, 1.0)


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
