"""Arrays by name: those of `np.savez`, and what a file from a stranger can claim."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.files.npz import read_npz
from tests.special_files import SPECIAL

ARRAYS: dict[str, Any] = {
    "matrix": np.arange(12, dtype=np.int32).reshape(3, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "empty": np.zeros((0, 6), np.uint8),
    "number": np.array(5),
    "text": np.array("vocabulary"),
    "big": np.arange(3, dtype=">u8"),
    "flags": np.array([True, False]),
}


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **ARRAYS)
    found = read_npz(tmp_path / "x.npz")
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].flags.writeable


def test_one_flipped_bit_is_refused_or_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(5), b=np.array("text"))
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            found = read_npz(path)
        except ValueError:
            refused += 1
        else:  # times, attributes and the like
            assert found.keys() == {"a", "b"} and found["b"].item() == "text"
            assert found["a"].tolist() == [0, 1, 2, 3, 4]
    assert refused > len(whole) // 2


def npy(shape: str, descr: str = "'<i4'", *, order: str = "False", data: bytes = bytes(16)) -> bytes:
    """An .npy member with any header."""
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zipped(*members: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for number, member in enumerate(members):
            archive.writestr(f"a{number}.npy", member)
    return file.getvalue()


def overlapping() -> bytes:
    """A thousand entries of the directory that name one member."""
    whole = zipped(npy("(25000,)", data=bytes(100_000)))
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    entry, count = whole[start:end], 1000
    tail = bytearray(whole[end:])
    struct.pack_into("<HHI", tail, 8, count, count, count * len(entry))
    return whole[:start] + entry * count + bytes(tail)


WRONG: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no zip": lambda: b"PK" + bytes(100),
    "one array": lambda: npy("(4,)"),
    "inflating": lambda: zipped(npy("(5000000,)", data=bytes(20_000_000)), compression=zipfile.ZIP_DEFLATED),
    "overlapping": overlapping,
    "too large a shape": lambda: zipped(npy("(1000000000000,)")),
    "too large a product": lambda: zipped(npy("(4294967296, 4294967296, 0)")),
    "too small a shape": lambda: zipped(npy("(3,)")),
    "a negative shape": lambda: zipped(npy("(-4,)")),
    "half a shape": lambda: zipped(npy("(4.5,)")),
    "texts without letters": lambda: zipped(npy("(1000000000,)", "'<U0'", data=b"")),
    "objects": lambda: zipped(npy("(2,)", "'|O'")),
    "records": lambda: zipped(npy("(1,)", "[('a', '<i4', (4,))]")),
    "bytes without a type": lambda: zipped(npy("(1,)", "'|V16'")),
    "no type": lambda: zipped(npy("(4,)", "'<q7'")),
    "code": lambda: zipped(npy("(4,)", "__import__('os').getcwd()")),
    "another version": lambda: zipped(b"\x93NUMPY\x09\x00" + npy("(4,)")[8:]),
    "a bare member": lambda: zipped(b"text"),
    "deep": lambda: zipped(npy("(" * 500 + ")" * 500)),
}


@pytest.mark.parametrize("kind", WRONG)
def test_anything_else_is_refused_in_little_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(WRONG[kind]())
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="holds no arrays by name"):
            read_npz(path)
        assert tracemalloc.get_traced_memory()[1] < 20 * path.stat().st_size + 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / "x.npz")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_npz(tmp_path / "x.npz")


def test_a_file_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_npz(tmp_path / "x.npz")
