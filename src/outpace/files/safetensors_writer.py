"""Writes safetensors files of bytes as they are: nothing is rounded, and no other library is asked.

Reference: https://huggingface.co/docs/safetensors (u64 length, JSON header, data). The header is padded with
spaces to 8 bytes, and tensors lie by the size of their items, the widest first, so that each is aligned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.files.whole import writing
from outpace.progress import Progress

ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "BOOL": 1, "U8": 1}
ALIGNMENT = 8
PIECE = 16 << 20  # bytes between two reports of progress


@dataclass(frozen=True, slots=True)
class TensorBytes:
    """A tensor as a file holds it.

    type_name  one of ITEM_BYTES.
    data       u8, of any shape: its items one after the other. It may be a view of a mapped file.
    """

    type_name: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def __post_init__(self) -> None:
        wanted = math.prod(self.shape) * ITEM_BYTES[self.type_name]
        assert self.data.nbytes == wanted, f"{self.data.nbytes} bytes, {self.type_name}{list(self.shape)}"


def bytes_of(values: NDArray[np.generic], type_name: str) -> TensorBytes:
    """An array of this type in memory."""
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return TensorBytes(type_name, values.shape, flat)


def write_safetensors(
    path: Path, tensors: Mapping[str, TensorBytes], progress: Progress | None = None
) -> None:
    """Write a file whole or not at all; an OutpaceError if that fails."""
    names = sorted(tensors, key=lambda name: (-ITEM_BYTES[tensors[name].type_name], name))
    header, end = {}, 0
    for name in names:
        one = tensors[name]
        places = [end, end := end + one.data.nbytes]
        header[name] = {"dtype": one.type_name, "shape": list(one.shape), "data_offsets": places}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    done = 0
    try:
        with writing(path) as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                flat = tensors[name].data.reshape(-1)
                for start in range(0, len(flat), PIECE):
                    piece = flat[start : start + PIECE]
                    file.write(np.ascontiguousarray(piece).data)
                    done += len(piece)
                    if progress is not None:
                        progress(done, end, f"writing {path.name}")
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
