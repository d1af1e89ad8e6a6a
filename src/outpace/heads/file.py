"""Trained proposal heads: what `outpace train blockwise` writes and the drafter `blockwise` reads.

The folder's tensors (see `folder.py`). With k heads, L of which are learned (k - 1 where head 1 is the
identity, else k), states of width D and a hidden layer of W units a head:

    hidden.weight f32[L * W, D]   hidden.bias f32[L * W]
    output.weight f32[L * D, L * W]   output.bias f32[L * D]
    token_ids     i32[M], ascending: the tokens that are drafted; absent where it is the whole vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError
from outpace.files.safetensors import FolderWeights
from outpace.heads.folder import HeadConfig, read_tensors, write_folder

METHOD = "blockwise"
First = Literal["identity", "learned"]
Id = TypeVar("Id", np.int32, np.int64)


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
    found = HeadConfig(folder, METHOD, "outpace train blockwise")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    tensors = read_tensors(weights, config.shapes(), found.folder)
    return Heads(config, tensors, read_token_ids(found.folder, weights))


def write_heads(folder: str | Path, heads: Heads) -> None:
    """Write a folder, each file whole or not at all."""
    more = {} if heads.token_ids is None else {"token_ids": np.ascontiguousarray(heads.token_ids, np.int32)}
    write_folder(folder, METHOD, asdict(heads.config), heads.tensors, **more)


def read_config(found: HeadConfig) -> HeadsConfig:
    """The fields of a config.json, every one checked."""
    num_heads, hidden_size, width = found.size("num_heads", 2), found.size("hidden_size"), found.size("width")
    first, target = found.field("first"), found.field("target")
    if first != "identity" and first != "learned":
        raise found.fault("first", f"accepted are {', '.join(get_args(First))}")
    if not isinstance(target, str) or not target:
        raise found.fault("target", "expected the fingerprint of a model")
    return HeadsConfig(num_heads, hidden_size, width, target, found.model, first)


def read_token_ids(folder: Path, weights: FolderWeights) -> NDArray[np.int32] | None:
    """The tensor token_ids i32[M], ascending; None where there is none."""
    return read_ids(folder, weights, "token_ids", np.int32)


def read_token_ids_of(folder: Path, weights: FolderWeights, num_tokens: int) -> NDArray[np.int32] | None:
    """The tensor token_ids of so many drafted tokens; None for 0. FormatError for another count."""
    ids = read_token_ids(folder, weights)
    if (0 if ids is None else len(ids)) != num_tokens:
        count = "missing" if ids is None else f"of {len(ids)} tokens"
        raise FormatError(f"{folder}: the tensor token_ids is {count}, expected {num_tokens}")
    return ids


def read_ids(folder: Path, weights: FolderWeights, name: str, kind: type[Id]) -> NDArray[Id] | None:
    """A tensor [M] of ascending token ids; None where there is none."""
    tensor = weights.tensors.get(name)
    if tensor is None:
        return None
    size, type_name = math.prod(tensor.shape), f"I{8 * np.dtype(kind).itemsize}"
    is_list = len(tensor.shape) == 1 and size and tensor.nbytes == np.dtype(kind).itemsize * size
    if tensor.type_name != type_name or not is_list:
        found = f"{tensor.type_name}{list(tensor.shape)}"
        raise FormatError(f"{folder}: {name} is {found}, expected {type_name}[M]")
    ids = np.ascontiguousarray(weights.rows(tensor)).reshape(-1).view(kind)
    if ids[0] < 0 or (ids[1:] <= ids[:-1]).any():
        raise FormatError(f"{folder}: {name} are not ascending token ids")
    return ids.copy()


def read_drafted(
    folder: Path, weights: FolderWeights, name: str, kind: type[Id], count: int, vocab_size: int
) -> NDArray[Id] | None:
    """A tensor of `count` token ids of a vocabulary; None where they are the whole of it."""
    ids = read_ids(folder, weights, name, kind)
    if ids is None and count == vocab_size:
        return None
    if ids is None or len(ids) != count:
        found = "missing" if ids is None else f"of {len(ids)} tokens"
        raise FormatError(f"{folder}: the tensor {name} is {found}, expected {count}")
    if ids[-1] >= vocab_size:
        raise FormatError(f"{folder}: {name} has the token {ids[-1]}, accepted are 0 to {vocab_size - 1}")
    return None if count == vocab_size else ids
