"""Files that are written whole or not at all: nobody reads half of one, and the old one stays till then."""

from __future__ import annotations

import os
from pathlib import Path

from outpace.core.errors import OutpaceError


def write_whole(path: Path, data: bytes | memoryview, *, after: str = "") -> None:
    """Put data into a file, replacing what was there; an OutpaceError, ended by `after`, if that fails."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}{after}") from error
