"""The weights of a Hugging Face folder: model.safetensors, or an index and its shards, every field checked.

Reference: https://huggingface.co/docs/safetensors (u64 length, JSON header, data). Files are memory-mapped;
nothing but the headers is read until a tensor is asked for.
"""

from __future__ import annotations

import math
import os
import struct
from pathlib import Path
from typing import TypeGuard

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.json_files import MAX_BYTES, json_file, json_object
from outpace.files.raw import MappedFile, RawTensor, check_apart

_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class FolderWeights:
    """The tensors of a Hugging Face folder: `.tensors` (name -> RawTensor), `.rows(tensor)`, `.files`.

    Raises FormatError, naming the file and the fault, for a folder without readable weights. Tensors of
    types that are not read are listed too: some models carry integer buffers that nobody needs.

    single  the file's name where it is one alone.
    """

    def __init__(self, folder: str | Path, single: str = _SINGLE) -> None:
        folder = Path(folder)
        self.tensors: dict[str, RawTensor] = {}
        self._holders: dict[str, MappedFile] = {}
        index = folder / _INDEX
        if (folder / single).is_file():
            self.files = [folder / single]
        elif index.is_file():
            self.files = _shards(index)
        else:
            patterns = ("*.bin", "*.safetensors", "*.pth")
            others = sorted(file.name for pattern in patterns for file in folder.glob(pattern))
            found = f"; found {', '.join(others[:3])}" if others else ""
            raise FormatError(f"{folder} has no weights: expected {single} or {_INDEX}{found}")
        self._read: set[MappedFile] = set()  # since the last release
        for path in self.files:
            file = MappedFile(path, kind="safetensors", minimum_bytes=10)
            for tensor in _read_header(path, file.data):
                if tensor.name in self.tensors:
                    raise FormatError(f"{path}: tensor {tensor.name!r} is in another file too")
                self.tensors[tensor.name] = tensor
                self._holders[tensor.name] = file

    def rows(self, tensor: RawTensor) -> np.ndarray:
        """The tensor's bytes as u8[rows, bytes per row], a read-only view of the file."""
        file = self._holders[tensor.name]
        self._read.add(file)
        return file.rows(tensor)

    def release(self) -> None:
        """Gives back the memory of what has been read."""
        for file in self._read:
            file.release()
        self._read.clear()


def _shards(index: Path) -> list[Path]:
    weight_map = json_file(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{index} has no weight_map")
    names = set()
    for name in weight_map.values():
        # os.path: a name too long for any file is none, and no error.
        if not isinstance(name, str) or Path(name).name != name or not os.path.isfile(index.parent / name):
            raise FormatError(f"{index} names the file {name!r}, which is not in the folder")
        names.add(name)
    return [index.parent / name for name in sorted(names)]


def _read_header(path: Path, data: np.ndarray) -> list[RawTensor]:
    (length,) = struct.unpack("<Q", bytes(data[:8]))
    if length > len(data) - 8:
        raise FormatError(f"{path}: truncated or corrupt file: a header of {length} bytes does not fit")
    text = bytes(data[8 : 8 + min(length, MAX_BYTES + 1)])
    header = json_object(text, f"the header of {path}", unique=True)
    header.pop("__metadata__", None)
    tensors = [_checked(path, name, entry, 8 + length, len(data)) for name, entry in header.items()]
    check_apart(tensors, str(path))
    return tensors


def _checked(path: Path, name: str, entry: object, start: int, size: int) -> RawTensor:
    """The header's entry of one tensor, its place checked against the file."""
    fields = entry if isinstance(entry, dict) else {}
    dtype, shape, places = (fields.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not (isinstance(dtype, str) and _whole_numbers(shape) and _whole_numbers(places) and len(places) == 2):
        raise FormatError(f"{path}: damaged header: tensor {name!r}")
    begin, end = places
    if not begin <= end <= size - start:
        raise FormatError(f"{path}: truncated file: tensor {name!r} ends at byte {start + end} of {size}")
    if dtype in _ITEM_BYTES and math.prod(shape) * _ITEM_BYTES[dtype] != end - begin:
        raise FormatError(f"{path}: tensor {name!r} of shape {shape} does not fill its {end - begin} bytes")
    return RawTensor(name, tuple(shape), dtype, start + begin, end - begin)


def _whole_numbers(value: object) -> TypeGuard[list[int]]:
    if not isinstance(value, list) or len(value) > 8:
        return False
    return all(type(n) is int and 0 <= n < 1 << 62 for n in value)
