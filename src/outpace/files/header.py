"""The beginning of our own binary files: magic, u64 length, the header (a JSON object), u32 CRC of that."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError
from outpace.files.json_files import json_value


def header_bytes(magic: bytes, fields: Mapping[str, Any]) -> bytes:
    """The beginning of a file; `magic` has 8 bytes."""
    text = json.dumps(fields).encode()
    return magic + struct.pack("<Q", len(text)) + text + struct.pack("<I", zlib.crc32(text))


def read_header(
    path: Path, buffer: NDArray[np.uint8], *, magic: bytes, version: int | None, kind: str
) -> tuple[dict[str, Any], int]:
    """The fields, and where the header ends; version None accepts all.

    FormatError for another kind or version, and for a damaged header.
    """
    raw = buffer[:16].tobytes()
    if len(raw) < 16 or raw[:8] != magic:
        raise FormatError(f"{path} is not a {kind}")
    (length,) = struct.unpack("<Q", raw[8:])
    end = 20 + length
    if end > len(buffer):
        raise FormatError(f"{path}: truncated header")
    text = buffer[16 : 16 + length].tobytes()
    if struct.pack("<I", zlib.crc32(text)) != buffer[16 + length : end].tobytes():
        raise FormatError(f"{path}: damaged header")
    try:
        fields = json_value(text, file_names=True)  # where it was packed from
        found = fields["version"]
    except (ValueError, KeyError, TypeError):
        raise FormatError(f"{path}: damaged header") from None
    if version is not None and found != version:
        raise FormatError(f"{path}: {kind} of version {found!r}, accepted is {version}")
    return fields, end
