"""Files of numpy arrays by name, as `np.savez` writes them, read within bounds that follow from their size.

numpy's own reader believes a file: a member may inflate a thousandfold, a header may claim any shape.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from outpace.files.regular import open_regular

_KINDS = "biufU"
_END = struct.Struct("<4s4H2IH")  # of a zip file: magic, two numbers of disks, two of members, places
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file. OSError where it cannot be opened, ValueError where it is damaged or no such."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                file.seek(-_END.size, os.SEEK_END)
                magic, _, _, _, count, _, _, _ = _END.unpack(file.read(_END.size))
                if magic != b"PK\x05\x06" or count != len(members):  # zipfile leaves out what it cannot find
                    raise ValueError("another number of members")
                if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                    raise ValueError("compressed members")
                if sum(max(member.file_size, member.compress_size) for member in members) > size:
                    raise ValueError("members larger than the file")
                return {
                    member.filename.removesuffix(".npy"): _array(archive.read(member)) for member in members
                }
        except Exception as error:  # zip and numpy have many kinds
            raise ValueError(f"{path} holds no arrays by name ({type(error).__name__})") from error


def _array(data: bytes) -> NDArray[Any]:
    file = io.BytesIO(data)
    shape, is_fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    if dtype.kind not in _KINDS or not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError("not numbers or texts")
    # The shape has to fill the member exactly, whatever the header says.
    return np.frombuffer(data[file.tell() :], dtype).reshape(shape, order="F" if is_fortran else "C").copy()
