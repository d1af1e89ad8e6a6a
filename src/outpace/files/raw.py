"""Mapped model files and the places of their tensors: the common part of the GGUF and safetensors readers."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.regular import open_regular


@dataclass(frozen=True, slots=True)
class RawTensor:
    """One tensor, its place already checked to lie inside the file.

    `shape` has the contiguous dimension last, so a matrix is (out_features, in_features). `type_name` is
    GGML's: "F32", "BF16", "Q4_K" ...
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int  # bytes from the start of the file
    nbytes: int


def check_apart(tensors: Iterable[RawTensor], what: str) -> None:
    """FormatError where two tensors of the file called `what` share bytes."""
    ordered = sorted((t for t in tensors if t.nbytes), key=lambda tensor: tensor.offset)
    for before, after in pairwise(ordered):
        if before.offset + before.nbytes > after.offset:
            raise FormatError(f"{what}: tensors {before.name!r} and {after.name!r} overlap")


class RawTensors(Protocol):
    """A source of weights: a GGUF file or the safetensors files of a folder."""

    @property
    def tensors(self) -> dict[str, RawTensor]: ...

    def rows(self, tensor: RawTensor) -> np.ndarray:
        """The tensor's bytes as u8[rows, bytes per row], a read-only view of the mapped file."""
        ...

    def release(self) -> None:
        """Gives back the memory of what has been read. Views stay valid: they read the file again."""
        ...


class MappedFile:
    """A read-only mapped file: `.data` u8[size]. Raises FormatError for a file that cannot be read."""

    def __init__(self, path: Path, *, kind: str, minimum_bytes: int) -> None:
        try:
            with open_regular(path) as file:
                size = file.seek(0, 2)
                if size < minimum_bytes:
                    raise FormatError(f"{path} is not a {kind} file: it holds only {size} bytes")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FormatError(f"cannot read {path}: {error.strerror or error}") from error
        self.data = np.frombuffer(self._map, np.uint8)

    def rows(self, tensor: RawTensor) -> np.ndarray:
        """See RawTensors."""
        raw = self.data[tensor.offset : tensor.offset + tensor.nbytes]
        return raw.reshape(math.prod(tensor.shape[:-1]), -1)

    def release(self) -> None:
        """See RawTensors."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
