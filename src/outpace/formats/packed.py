"""The packed file: a model in the form in which the engine reads it, memory-mapped, written once per source.

Layout: magic, u64 length of the header, the header (JSON), u32 CRC of the header, then tensors and byte
sections, the first at a multiple of 4096 bytes and all at multiples of 64. The header holds the identity of
the source, the model's configuration, the places of the tensors (see packing.py for what is inside a
matrix) and those of the sections (tokenizer, chat template), so that a start never reads the source. All
numbers are little-endian.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.errors import FormatError, OutpaceError
from outpace.formats.config import ModelConfig
from outpace.formats.packing import FLOAT_BYTES, LAYOUTS, PackedTensor, matrix_bytes, tile_bytes, unpack
from outpace.formats.whole import writing

__all__ = ["PACKING_VERSION", "PackedFile", "PackedTensor", "TensorPlan", "unpack", "write_packed"]

MAGIC = b"OUTPACE1"
PACKING_VERSION = 1  # raise it whenever a file of the same source would differ
ALIGNMENT = 64
DATA_ALIGNMENT = 4096
_ABANDONED_S = 24 * 3600  # no writer takes so long

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor to be written: what it is, and its packed bytes in order. Vectors: kind "f32", cols = 1."""

    name: str
    kind: str
    rows: int
    cols: int
    is_vector: bool
    chunks: Callable[[], Iterable[np.ndarray]]

    @property
    def tile_bytes(self) -> int:
        return 0 if self.is_vector else tile_bytes(self.kind, self.cols)

    @property
    def nbytes(self) -> int:
        return 4 * self.rows if self.is_vector else matrix_bytes(self.kind, self.rows, self.cols)


class PackedFile:
    """An open packed file.

    `.config`, `.tensors` (canonical name -> PackedTensor), `.buffer` (u8, the whole file, read-only and
    mapped) and `.section(name)`. Raises FormatError where the file is not a whole and consistent packed
    file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.buffer: np.memmap[Any, np.dtype[np.uint8]] = np.memmap(self.path, np.uint8, "r")
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise FormatError(f"cannot read {self.path}: {error}") from None
        header = _read_header(self.path, self.buffer)
        try:
            self.source: dict[str, Any] = dict(header["source"])
            self.config = ModelConfig.from_json(header["config"])
            self.tensors = {name: PackedTensor(**place) for name, place in header["tensors"].items()}
            self._sections = {name: (int(at), int(size)) for name, (at, size) in header["sections"].items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{self.path}: damaged header: {error}") from None
        for name, tensor in self.tensors.items():
            _check_place(self.path, name, tensor, len(self.buffer))
        for at, size in self._sections.values():
            if not 0 <= at <= at + size <= len(self.buffer):
                raise FormatError(f"{self.path}: damaged header: a section lies outside the file")

    def section(self, name: str) -> bytes | None:
        """A byte section (b"" is a section too), None where there is none of that name."""
        place = self._sections.get(name)
        return None if place is None else bytes(self.buffer[place[0] : place[0] + place[1]])

    def close(self) -> None:
        """Drops this object's hold on the mapping, which goes when nobody uses its memory any more."""
        del self.buffer


def write_packed(
    path: str | Path,
    *,
    config: ModelConfig,
    tensors: Sequence[TensorPlan],
    sections: dict[str, bytes],
    source: dict[str, Any],
    progress: Progress | None = None,
) -> None:
    """Writes a packed file, whole or not at all: under another name in the same folder, renamed at the end.

    `progress(done_bytes, total_bytes, label)` follows the bytes written. OutpaceError where the folder or
    the disk refuses; whatever stops the writing (Ctrl-C too), the unfinished file is removed.
    """
    path = Path(path)
    header, total = _layout(config, tensors, sections, source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path.parent)
        with writing(path) as file:
            _reserve(file.fileno(), total)
            file.write(header)
            for plan in tensors:
                _pad(file, ALIGNMENT)
                start = file.tell()
                for chunk in plan.chunks():
                    file.write(np.ascontiguousarray(chunk).data)
                    if progress is not None:
                        progress(file.tell(), total, plan.name)
                assert file.tell() - start == plan.nbytes, plan.name
            for payload in sections.values():
                _pad(file, ALIGNMENT)
                file.write(payload)
            assert file.tell() == total
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutpaceError(
            f"cannot write the packed model {path} ({total / 1e6:.0f} MB): {error.strerror or error}"
        ) from error
    if progress is not None:
        progress(total, total, "done")


def _reserve(descriptor: int, size: int) -> None:
    """Claims the disk space at once, so that a full disk is known before the packing starts."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise  # other refusals only mean that this file system cannot reserve


def _remove_abandoned(folder: Path) -> None:
    """Removes what writers that were killed left behind."""
    for part in folder.glob("*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def _layout(
    config: ModelConfig, tensors: Sequence[TensorPlan], sections: dict[str, bytes], source: dict[str, Any]
) -> tuple[bytes, int]:
    """The header's bytes up to the first tensor, and the size of the file.

    Places depend on the header's length and the other way round, so the data's start is rounded up
    generously.
    """

    def header(start: int) -> tuple[bytes, int]:
        at = start
        places: dict[str, dict[str, Any]] = {}
        for plan in tensors:
            at = _rounded(at, ALIGNMENT)
            places[plan.name] = asdict(
                PackedTensor(plan.kind, plan.rows, plan.cols, at, plan.nbytes, plan.tile_bytes)
            )
            at += plan.nbytes
        section_places: dict[str, tuple[int, int]] = {}
        for name, payload in sections.items():
            at = _rounded(at, ALIGNMENT)
            section_places[name] = (at, len(payload))
            at += len(payload)
        fields = {
            "version": PACKING_VERSION,
            "source": source,
            "config": config.to_json(),
            "total_bytes": at,
            "sections": section_places,
            "tensors": places,
        }
        text = json.dumps(fields).encode()
        return MAGIC + struct.pack("<Q", len(text)) + text + struct.pack("<I", zlib.crc32(text)), at

    room = 32 * (len(tensors) + len(sections) + 1)  # for offsets that have more digits than in the trial
    start = _rounded(len(header(0)[0]) + room, DATA_ALIGNMENT)
    text, total = header(start)
    assert len(text) <= start
    return text.ljust(start, b"\0"), total


def _read_header(path: Path, buffer: np.ndarray) -> dict[str, Any]:
    raw = bytes(buffer[:16])
    if len(raw) < 16 or raw[:8] != MAGIC:
        raise FormatError(f"{path} is not a packed model")
    (length,) = struct.unpack("<Q", raw[8:])
    if not 0 < length <= len(buffer) - 20:
        raise FormatError(f"{path}: truncated header")
    text = bytes(buffer[16 : 16 + length])
    if struct.pack("<I", zlib.crc32(text)) != bytes(buffer[16 + length : 20 + length]):
        raise FormatError(f"{path}: damaged header")
    header = json.loads(text)  # whatever has the right CRC was written by us
    if header["version"] != PACKING_VERSION:
        raise FormatError(f"{path}: packing version {header['version']}; accepted: {PACKING_VERSION}")
    if header["total_bytes"] != len(buffer):
        raise FormatError(f"{path}: {len(buffer)} bytes, not the {header['total_bytes']} of its header")
    return header


def _check_place(path: Path, name: str, tensor: PackedTensor, size: int) -> None:
    plan = TensorPlan(name, tensor.kind, tensor.rows, tensor.cols, tensor.tile_bytes == 0, lambda: ())
    known = tensor.kind == "f32" if plan.is_vector else tensor.kind in LAYOUTS or tensor.kind in FLOAT_BYTES
    if not known or tensor.rows < 1 or tensor.cols < 1:
        raise FormatError(f"{path}: damaged header: tensor {name!r}")
    whole = tensor.offset >= 0 and tensor.offset % ALIGNMENT == 0 and tensor.offset + tensor.nbytes <= size
    if not whole or (tensor.nbytes, tensor.tile_bytes) != (plan.nbytes, plan.tile_bytes):
        raise FormatError(f"{path}: damaged header: the place of tensor {name!r}")


def _pad(file: Any, multiple: int) -> None:
    file.write(b"\0" * (-file.tell() % multiple))


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
