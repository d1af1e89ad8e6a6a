"""Trained proposal heads: a folder with config.json and model.safetensors, every field checked.

What `outpace train blockwise` writes and the drafter `blockwise` reads. With k heads, L of which are learned
(k - 1 where head 1 is the identity, else k), states of width D and a hidden layer of W units a head:

    hidden.weight f32[L * W, D]   hidden.bias f32[L * W]
    output.weight f32[L * D, L * W]   output.bias f32[L * D]
    token_ids     i32[M], ascending: the tokens that are drafted; absent where it is the whole vocabulary
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.json_files import json_file
from outpace.files.quants import bf16_to_f32
from outpace.files.raw import RawTensor
from outpace.files.safetensors import FolderWeights
from outpace.files.whole import write_whole

VERSION = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
First = Literal["identity", "learned"]
_FLOATS: Mapping[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}


@dataclass(frozen=True, slots=True)
class HeadsConfig:
    """What a folder of heads says of itself.

    num_heads    k: head i proposes the token i places ahead, head 1 is the model's own.
    hidden_size  D, width of the target's states at the tap "final".
    width        W, units of the hidden layer for each learned head.
    first        whether head 1 is the model's as it is ("identity") or learned too, which changes the output.
    target       fingerprint of the model that they were trained on.
    model        what it was called, for error messages.
    """

    num_heads: int
    hidden_size: int
    width: int
    target: str
    model: str = ""
    first: First = "identity"

    @property
    def num_learned(self) -> int:
        """L."""
        return self.num_heads - (self.first == "identity")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that every folder has."""
        learned, hidden = self.num_learned * self.hidden_size, self.num_learned * self.width
        return {
            "hidden.weight": (hidden, self.hidden_size),
            "hidden.bias": (hidden,),
            "output.weight": (learned, hidden),
            "output.bias": (learned,),
        }


@dataclass(frozen=True, slots=True)
class Heads:
    """Config, f32 tensors by name, and the drafted tokens (None: all)."""

    config: HeadsConfig
    tensors: Mapping[str, NDArray[np.float32]]
    token_ids: NDArray[np.int32] | None

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"
        assert self.token_ids is None or self.token_ids.ndim == 1, "a list of tokens"


def read_heads(folder: str | Path) -> Heads:
    """The heads in a folder; FormatError where they are missing, truncated or something else."""
    folder = Path(os.path.expanduser(folder))
    if not folder.is_dir():
        raise FormatError(
            f"there is no folder of heads {folder}, accepted is what `outpace train blockwise` has written"
        )
    config = _read_config(folder / CONFIG)
    weights = FolderWeights(folder)
    tensors = {}
    for name, shape in config.shapes().items():
        tensor = weights.tensors.get(name)
        if tensor is None or tensor.shape != shape or tensor.type_name not in _FLOATS:
            found = "missing" if tensor is None else f"{tensor.type_name}{list(tensor.shape)}"
            raise FormatError(f"{folder}: the tensor {name} is {found}, expected floats {list(shape)}")
        tensors[name] = _floats(weights, tensor)
        if not np.isfinite(tensors[name]).all():
            raise FormatError(f"{folder}: the tensor {name} has values that are not finite")
    return Heads(config, tensors, _read_token_ids(folder, weights))


def write_heads(folder: str | Path, heads: Heads) -> None:
    """Write a folder, each file whole or not at all; weights as f16, which is all that they are worth."""
    from safetensors.numpy import save  # comes with the extra torch, as all training does

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutpaceError(f"cannot write {folder}: {error.strerror or error}") from error
    # `save` writes the memory of an array as it lies.
    arrays: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(t, np.float16) for name, t in heads.tensors.items()
    }
    if heads.token_ids is not None:
        arrays["token_ids"] = np.ascontiguousarray(heads.token_ids, np.int32)
    config = {"method": "blockwise", "version": VERSION, **asdict(heads.config)}
    write_whole(folder / WEIGHTS, save(arrays))
    write_whole(folder / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def _read_config(path: Path) -> HeadsConfig:
    config = json_file(path)
    if config.get("method") != "blockwise":
        raise FormatError(f"{path}: heads of the method {config.get('method')!r}, accepted is 'blockwise'")
    if config.get("version") != VERSION:
        raise FormatError(f"{path}: heads of version {config.get('version')!r}, accepted is {VERSION}")
    sizes: list[int] = []
    for name, least in (("num_heads", 2), ("hidden_size", 1), ("width", 1)):
        size = config.get(name)
        if type(size) is not int or not least <= size <= 1 << 20:
            raise FormatError(f"{path}: {name} is {size!r}, accepted are whole numbers >= {least}")
        sizes.append(size)
    first, target = config.get("first"), config.get("target")
    if first != "identity" and first != "learned":
        raise FormatError(f"{path}: first is {first!r}, accepted are {', '.join(get_args(First))}")
    if not isinstance(target, str) or not target:
        raise FormatError(f"{path}: target is {target!r}, expected the fingerprint of a model")
    num_heads, hidden_size, width = sizes
    return HeadsConfig(num_heads, hidden_size, width, target, str(config.get("model", "")), first)


def _floats(weights: FolderWeights, tensor: RawTensor) -> NDArray[np.float32]:
    raw = np.ascontiguousarray(weights.rows(tensor)).reshape(-1).view(_FLOATS[tensor.type_name])
    floats: NDArray[np.float32] = (
        bf16_to_f32(raw) if tensor.type_name == "BF16" else raw.astype(np.float32)
    ).reshape(tensor.shape)
    return floats


def _read_token_ids(folder: Path, weights: FolderWeights) -> NDArray[np.int32] | None:
    tensor = weights.tensors.get("token_ids")
    if tensor is None:
        return None
    size = math.prod(tensor.shape)
    if tensor.type_name != "I32" or len(tensor.shape) != 1 or tensor.nbytes != 4 * size or not size:
        raise FormatError(f"{folder}: token_ids is {tensor.type_name}{list(tensor.shape)}, expected I32[M]")
    ids = np.ascontiguousarray(weights.rows(tensor)).reshape(-1).view(np.int32)
    if ids[0] < 0 or (ids[1:] <= ids[:-1]).any():
        raise FormatError(f"{folder}: token_ids are not ascending token ids")
    return ids.copy()
