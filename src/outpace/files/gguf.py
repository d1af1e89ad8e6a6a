"""GGUF files: metadata and the raw bytes of the tensors, every field checked before it is used.

Reference: the GGUF specification, ggml-org/ggml docs/gguf.md (versions 2 and 3, little endian). The file is
memory-mapped; nothing but the header is read until a tensor is asked for.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.raw import MappedFile, RawTensor, check_apart

MAGIC = b"GGUF"
DEFAULT_ALIGNMENT = 32
MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class BlockType:
    """How a tensor type stores its values: `values` of them in `nbytes` bytes."""

    name: str
    values: int
    nbytes: int


BLOCK_TYPES: dict[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2),
}

# Types that other programs write and we do not read, so that the refusal can name them.
_REFUSED_TYPES = {
    9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
    28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip

_SCALARS: dict[int, struct.Struct] = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_STRING, _ARRAY = 8, 9
# The shortest possible entry bounds how many a file of a given length can hold; no model has so many that
# what Python makes of them could fill the memory.
_MIN_KEY_VALUE_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 8 + 4 + 8
_MAX_ENTRIES = 1 << 16


class GGUFFile:
    """An open GGUF file: `.metadata` (key -> value; arrays as lists) and `.tensors` (name -> RawTensor).

    Raises FormatError, naming the file and the fault, for anything but a well-formed file of accepted types.
    The mapping goes when neither this object nor a view that `rows` gave is used any more.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = MappedFile(self.path, kind="GGUF", minimum_bytes=24)
        header = _HeaderReader(self.path, self._file.data.data)
        self.metadata, self.tensors = header.read()

    def rows(self, tensor: RawTensor) -> np.ndarray:
        """The tensor's bytes as u8[rows, bytes per row], a read-only view of the file."""
        return self._file.rows(tensor)

    def release(self) -> None:
        """Gives back the memory of what has been read."""
        self._file.release()


class _HeaderReader:
    """A cursor over the header that never reads past the end of the file."""

    def __init__(self, path: Path, data: memoryview) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.at = 0

    def fail(self, what: str) -> FormatError:
        return FormatError(f"{self.path}: {what}")

    def need(self, count: int, what: str) -> None:
        if count > self.size - self.at:
            raise self.fail(f"truncated file: {what} needs {count} bytes and {self.size - self.at} are left")

    def scalar(self, kind: int, what: str) -> Any:
        form = _SCALARS[kind]
        self.need(form.size, what)
        (value,) = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def string(self, what: str, errors: str = "replace") -> str:
        length = self.scalar(10, f"the length of {what}")
        self.need(length, what)
        raw = bytes(self.data[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode("utf-8", errors)
        except UnicodeDecodeError:
            raise self.fail(f"{what} is not UTF-8 text") from None

    def read(self) -> tuple[dict[str, Any], dict[str, RawTensor]]:
        if bytes(self.data[:4]) != MAGIC:
            raise self.fail("not a GGUF file: it does not begin with 'GGUF'")
        self.at = 4
        version = self.scalar(4, "the version")
        if version not in (2, 3):
            note = " (a big-endian file)" if version & 0xFFFF == 0 else ""
            raise self.fail(f"GGUF version {version}{note} is not read; accepted: 2, 3")
        num_tensors = self.scalar(10, "the tensor count")
        num_keys = self.scalar(10, "the metadata count")
        self.check_count(num_keys, "metadata entries", _MIN_KEY_VALUE_BYTES)
        metadata = self.read_metadata(num_keys)
        self.check_count(num_tensors, "tensors", _MIN_TENSOR_BYTES)
        infos = [self.read_tensor_info() for _ in range(num_tensors)]
        return metadata, self.place(infos, metadata)

    def check_count(self, count: int, what: str, least_bytes: int) -> None:
        most = min((self.size - self.at) // least_bytes, _MAX_ENTRIES)
        if count > most:
            raise self.fail(f"truncated or corrupt file: {count} {what} do not fit; accepted: up to {most}")

    def read_metadata(self, count: int) -> dict[str, Any]:
        metadata: dict[str, Any] = {}
        for _ in range(count):
            key = self.string("a metadata key", errors="strict")
            if key in metadata:
                raise self.fail(f"metadata key {key!r} appears twice")
            metadata[key] = self.value(self.scalar(4, f"the type of {key!r}"), f"metadata {key!r}")
        return metadata

    def value(self, kind: int, what: str) -> Any:
        if kind in _SCALARS:
            return self.scalar(kind, what)
        if kind == _STRING:
            return self.string(what)
        if kind != _ARRAY:
            raise self.fail(f"{what} has the unknown value type {kind}")
        kind = self.scalar(4, f"the element type of {what}")
        count = self.scalar(10, f"the length of {what}")
        if kind in _SCALARS:
            form = _SCALARS[kind]
            self.need(count * form.size, what)
            values = np.frombuffer(self.data, np.dtype(form.format), count, self.at).tolist()
            self.at += count * form.size
            return values
        if kind == _STRING:
            self.need(count * 8, what)
            return [self.string(what) for _ in range(count)]
        raise self.fail(f"{what} is an array of the unknown value type {kind}")

    def read_tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self.string("a tensor name", errors="strict")
        num_dims = self.scalar(4, f"the shape of {name!r}")
        if not 1 <= num_dims <= MAX_DIMENSIONS:
            raise self.fail(f"tensor {name!r} has {num_dims} dimensions; accepted: 1 to {MAX_DIMENSIONS}")
        dims = tuple(self.scalar(10, f"the shape of {name!r}") for _ in range(num_dims))
        kind = self.scalar(4, f"the type of {name!r}")
        return name, dims[::-1], kind, self.scalar(10, f"the offset of {name!r}")

    def place(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], metadata: dict[str, Any]
    ) -> dict[str, RawTensor]:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            raise self.fail(f"general.alignment is {alignment!r}; accepted: a power of two up to 2**20")
        if alignment & (alignment - 1):
            raise self.fail(f"general.alignment is {alignment}, which is not a power of two")
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, RawTensor] = {}
        for name, shape, kind, offset in infos:
            if name in tensors:
                raise self.fail(f"tensor {name!r} appears twice")
            block = BLOCK_TYPES.get(kind)
            if block is None:
                known = _REFUSED_TYPES.get(kind, f"number {kind}")
                accepted = ", ".join(sorted(b.name for b in BLOCK_TYPES.values()))
                raise self.fail(f"tensor {name!r} has type {known}, which is not read; accepted: {accepted}")
            if min(shape) < 1:
                raise self.fail(f"tensor {name!r} has the empty shape {shape}")
            if shape[-1] % block.values:
                raise self.fail(
                    f"tensor {name!r}: {block.name} needs rows of {block.values} n values, not {shape[-1]}"
                )
            nbytes = math.prod(shape) // block.values * block.nbytes
            if offset % alignment:
                raise self.fail(f"tensor {name!r} begins at {offset}, which is not aligned to {alignment}")
            if start + offset + nbytes > self.size:
                raise self.fail(
                    f"truncated file: tensor {name!r} ends at byte {start + offset + nbytes} of {self.size}"
                )
            tensors[name] = RawTensor(name, shape, block.name, start + offset, nbytes)
        check_apart(tensors.values(), str(self.path))
        return tensors
