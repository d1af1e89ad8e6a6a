"""The packed file: a model in the form in which the engine reads it, memory-mapped, written once per source.

Layout: the header (see header.py), then tensors and byte sections, the first at a multiple of 4096 bytes and
all at multiples of 64. The header holds the identity of the source, the model's configuration, the places of
the tensors (see packing.py for what is inside a matrix) and those of the sections (tokenizer, chat template),
so that a start never reads the source, and the CRCs of `NUM_STRIPES` equal parts of all that follows it:
whatever byte is damaged is found when the file is opened. All numbers are little-endian.
"""

from __future__ import annotations

import errno
import os
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.config import ModelConfig
from outpace.files.header import header_bytes, read_header
from outpace.files.packing import FLOAT_BYTES, LAYOUTS, PackedTensor, matrix_bytes, tile_bytes, unpack
from outpace.files.regular import open_regular
from outpace.files.whole import writing
from outpace.progress import Progress

__all__ = ["PACKING_VERSION", "PackedFile", "PackedTensor", "TensorPlan", "unpack", "write_packed"]

MAGIC = b"OUTPACE1"
PACKING_VERSION = 2  # raise it whenever a file of the same source would differ
ALIGNMENT = 64
DATA_ALIGNMENT = 4096
NUM_STRIPES = 8


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

    `.config`, `.tensors` (canonical name -> PackedTensor), `.source` (as it was given to `write_packed`),
    `.buffer` (u8, the whole file, read-only and mapped) and `.section(name)`. Raises FormatError where the
    file is not a whole, consistent and undamaged packed file. All of it is read once to see that: some 20 ms
    for 100 MB that the system has in memory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with open_regular(self.path) as file:
                self.buffer: np.memmap[Any, np.dtype[np.uint8]] = np.memmap(file, np.uint8, "r")
        except FormatError:
            raise
        except (OSError, ValueError) as error:  # ValueError: an empty file
            reason = error.strerror if isinstance(error, OSError) else error
            raise FormatError(f"cannot read {self.path}: {reason}") from None
        size = len(self.buffer)
        header, end = read_header(
            self.path, self.buffer, magic=MAGIC, version=PACKING_VERSION, kind="packed model"
        )
        try:
            if header["total_bytes"] != size:
                raise ValueError(f"{size} bytes, not the {header['total_bytes']} of its header")
            self.config = ModelConfig.from_json(header["config"])
            self.source: dict[str, Any] = header["source"]
            self.tensors = {name: PackedTensor(**place) for name, place in header["tensors"].items()}
            self._sections = {name: (int(at), int(size)) for name, (at, size) in header["sections"].items()}
            checksums = header["checksums"]
            for name, tensor in self.tensors.items():
                _check_place(name, tensor, size)
            for at, count in self._sections.values():
                if not 0 <= at <= at + count <= size:
                    raise ValueError("a section lies outside the file")
        except (AttributeError, KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise FormatError(f"{self.path}: damaged header: {error}") from None
        if _checksums(self.buffer[end:]) != checksums:
            raise FormatError(f"{self.path}: damaged data")

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
    fields, start = _layout(config, tensors, sections, source)
    total = fields["total_bytes"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as file:
            _reserve(file.fileno(), total)
            file.write(bytes(start))
            for plan in tensors:
                _pad(file, ALIGNMENT)
                begin = file.tell()
                for chunk in plan.chunks():
                    file.write(np.ascontiguousarray(chunk).data)
                    if progress is not None:
                        progress(file.tell(), total, plan.name)
                assert file.tell() - begin == plan.nbytes, plan.name
            for payload in sections.values():
                _pad(file, ALIGNMENT)
                file.write(payload)
            assert file.tell() == total
            file.flush()
            body = np.memmap(file.name, np.uint8, "r")[len(header_bytes(MAGIC, fields)) :]
            fields["checksums"] = _checksums(body)
            file.seek(0)
            file.write(header_bytes(MAGIC, fields))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OutpaceError(
            f"cannot write the packed model {path} ({total / 1e6:.0f} MB): {error.strerror or error}; "
            "$OUTPACE_CACHE names another folder"
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


def _layout(
    config: ModelConfig, tensors: Sequence[TensorPlan], sections: dict[str, bytes], source: dict[str, Any]
) -> tuple[dict[str, Any], int]:
    """The header's fields, the checksums of the body still to come, and where the data begins.

    Places depend on the header's length and the other way round, so the data's start is rounded up
    generously.
    """

    def fields(start: int) -> dict[str, Any]:
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
        return {
            "version": PACKING_VERSION,
            "source": source,
            "config": config.to_json(),
            "total_bytes": at,
            "sections": section_places,
            "tensors": places,
            "checksums": ["00000000"] * NUM_STRIPES,  # as long as those that take their place
        }

    room = 32 * (len(tensors) + len(sections) + 1)  # for offsets that have more digits than in the trial
    start = _rounded(len(header_bytes(MAGIC, fields(0))) + room, DATA_ALIGNMENT)
    whole = fields(start)
    assert len(header_bytes(MAGIC, whole)) <= start
    return whole, start


def _check_place(name: str, tensor: PackedTensor, size: int) -> None:
    """ValueError for a tensor that is none, or that does not lie in a file of this size."""
    numbers = (tensor.rows, tensor.cols, tensor.offset, tensor.nbytes, tensor.tile_bytes)
    plan = TensorPlan(name, tensor.kind, tensor.rows, tensor.cols, tensor.tile_bytes == 0, lambda: ())
    known = tensor.kind == "f32" if plan.is_vector else tensor.kind in LAYOUTS or tensor.kind in FLOAT_BYTES
    if not known or any(type(number) is not int for number in numbers) or min(tensor.rows, tensor.cols) < 1:
        raise ValueError(f"tensor {name!r}")
    whole = tensor.offset >= 0 and tensor.offset % ALIGNMENT == 0 and tensor.offset + tensor.nbytes <= size
    if not whole or (tensor.nbytes, tensor.tile_bytes) != (plan.nbytes, plan.tile_bytes):
        raise ValueError(f"the place of tensor {name!r}")


def _checksums(body: np.ndarray) -> list[str]:
    """The CRC-32 of each of NUM_STRIPES parts of nearly one size, 8 hex digits; a thread for each."""
    ends = [len(body) * i // NUM_STRIPES for i in range(NUM_STRIPES + 1)]
    found = [""] * NUM_STRIPES

    def read(stripe: int) -> None:
        found[stripe] = f"{zlib.crc32(body[ends[stripe] : ends[stripe + 1]].data):08x}"

    threads = []
    for stripe in range(NUM_STRIPES):
        thread = threading.Thread(target=read, args=(stripe,))
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError:  # the system grants no more threads
            read(stripe)
    for thread in threads:
        thread.join()
    return found


def _pad(file: Any, multiple: int) -> None:
    file.write(b"\0" * (-file.tell() % multiple))


def _rounded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
