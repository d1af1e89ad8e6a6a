"""From the tensors of a model file to the plan of a packed file: names, shapes, row order, kinds.

Differences between sources are undone here, so that packed models differ by configuration alone: GGUF's
llama files hold the rows of queries and keys pairwise interleaved (un-permuted to halves), and Hugging
Face's Gemma 3 norms hold the multiplier minus one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.config import ModelConfig
from outpace.files.names import MATRICES, canonical_from_gguf, canonical_from_hf, check_tensors
from outpace.files.packed import TensorPlan
from outpace.files.packing import FLOAT_BYTES, GROUP, KIND_OF_TYPE, TILE, pack_blocks, pack_floats
from outpace.files.quants import Blocks, is_finite, quantise_q4, quantise_q8, take_apart, widen
from outpace.files.raw import RawTensor, RawTensors

QUANTIZE = ("q8", "q4")
_CHUNK_VALUES = 1 << 20  # weights packed at a time: small enough for the caches, large enough for numpy


def plan_gguf(source: RawTensors, config: ModelConfig, *, quantize: str | None = None) -> list[TensorPlan]:
    """The plan for a GGUF file; FormatError where tensors are missing, unknown or misshapen."""
    order = _interleaved_rows(config) if config.architecture == "llama" else {}
    return _plan(source, config, canonical_from_gguf, quantize=quantize, row_order=order, norm_bias=0.0)


def plan_hf(source: RawTensors, config: ModelConfig, *, quantize: str | None = None) -> list[TensorPlan]:
    """The plan for a Hugging Face folder; FormatError where tensors are missing, unknown or misshapen."""

    def canonical(name: str) -> str | None:
        return canonical_from_hf(name, config.architecture)

    norm_bias = 1.0 if config.architecture == "gemma3" else 0.0
    return _plan(source, config, canonical, quantize=quantize, row_order={}, norm_bias=norm_bias)


def _plan(
    source: RawTensors,
    config: ModelConfig,
    canonical: Callable[[str], str | None],
    *,
    quantize: str | None,
    row_order: dict[str, np.ndarray],
    norm_bias: float,
) -> list[TensorPlan]:
    if quantize is not None and quantize not in QUANTIZE:
        raise OutpaceError(f"quantize is {quantize!r}; accepted: {', '.join(QUANTIZE)}, or nothing")
    found: dict[str, RawTensor] = {}
    for name, tensor in source.tensors.items():
        target = canonical(name)
        if target is None or (target == "output" and config.tie_embeddings):
            continue
        if target in found:
            raise FormatError(f"tensors {found[target].name!r} and {name!r} are the same one")
        if tensor.type_name not in KIND_OF_TYPE:
            accepted = ", ".join(sorted(KIND_OF_TYPE))
            raise FormatError(f"tensor {name!r} has type {tensor.type_name}; accepted: {accepted}")
        found[target] = tensor
    check_tensors(config, {name: tensor.shape for name, tensor in found.items()})
    plans = []
    for name in sorted(found, key=_position):
        leaf = name.rsplit(".", 1)[-1]
        order = row_order.get(leaf)
        if leaf in MATRICES:
            plans.append(_matrix(source, name, found[name], _quantise_to(leaf, quantize), order))
        else:
            plans.append(_vector(source, name, found[name], order, norm_bias if "norm" in leaf else 0.0))
    return plans


def _position(name: str) -> tuple[int, int]:
    """Sorts into the order in which a forward pass reads."""
    if name.startswith("layers."):
        return 1, int(name.split(".")[1])
    return (0, 0) if name == "embed" else (2, name == "output")


def _quantise_to(leaf: str, quantize: str | None) -> str | None:
    """The kind that a float matrix becomes; the matrices next to the vocabulary keep 8 bits."""
    if quantize == "q4" and leaf not in ("embed", "output"):
        return "q4m"
    return None if quantize is None else "q8s"


def _matrix(
    source: RawTensors, name: str, tensor: RawTensor, quantise_to: str | None, order: np.ndarray | None
) -> TensorPlan:
    rows, cols = tensor.shape
    type_name = tensor.type_name
    own_kind = KIND_OF_TYPE[type_name]
    kind = quantise_to if quantise_to and own_kind in FLOAT_BYTES else own_kind

    def blocks(raw: np.ndarray) -> Blocks:
        if kind == own_kind:
            return take_apart(type_name, raw)
        quantise = quantise_q4 if kind == "q4m" else quantise_q8
        with np.errstate(all="ignore"):  # values may be too large for a scale, which is then not finite
            return quantise(widen(type_name, raw))

    def pack(raw: np.ndarray) -> np.ndarray:
        if own_kind in FLOAT_BYTES:
            _check(tensor, is_finite(type_name, raw))
        if kind in FLOAT_BYTES:
            return pack_floats(kind, raw)
        parts = blocks(raw)
        _check(tensor, parts.is_finite())
        return pack_blocks(kind, parts)

    def chunks() -> Iterator[np.ndarray]:
        whole = source.rows(tensor)
        padded = -(-cols // GROUP) * GROUP
        step = max(_CHUNK_VALUES // padded // TILE, 1) * TILE
        for start in range(0, rows, step):
            yield pack(whole[start : start + step] if order is None else whole[order[start : start + step]])
        source.release()

    return TensorPlan(name, kind, rows, cols, False, chunks)


def _vector(
    source: RawTensors, name: str, tensor: RawTensor, order: np.ndarray | None, add: float
) -> TensorPlan:
    if KIND_OF_TYPE[tensor.type_name] not in FLOAT_BYTES:
        raise FormatError(f"tensor {tensor.name!r} has type {tensor.type_name}; accepted: F32, F16, BF16")

    def chunks() -> Iterator[np.ndarray]:
        raw = source.rows(tensor)
        _check(tensor, is_finite(tensor.type_name, raw))
        values = widen(tensor.type_name, raw)[0] + np.float32(add)
        yield values if order is None else values[order]

    return TensorPlan(name, "f32", tensor.shape[0], 1, True, chunks)


def _check(tensor: RawTensor, finite: bool) -> None:
    if not finite:
        raise FormatError(f"tensor {tensor.name!r} holds values that are not finite")


def _interleaved_rows(config: ModelConfig) -> dict[str, np.ndarray]:
    """Where the file holds each row of queries and keys: row 2i + s of a head goes to s * head_dim/2 + i."""
    half = config.head_dim // 2

    def order(heads: int) -> np.ndarray:
        in_file = np.arange(heads * config.head_dim).reshape(heads, half, 2)
        return in_file.transpose(0, 2, 1).reshape(-1)

    q, k = order(config.num_heads), order(config.num_kv_heads)
    return {"q": q, "q_bias": q, "k": k, "k_bias": k}
