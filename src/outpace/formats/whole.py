"""Files that are written whole or not at all: nobody reads half of one, and the old one stays till then."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from outpace.core.errors import OutpaceError


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside `path`, which takes its place at the end, or goes where an error ends the context.

    Its name is nobody else's: threads, and containers that share a folder, do not write into one file.
    """
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(path)
    finally:
        with suppress(OSError):  # after success it has been renamed
            part.unlink()


def write_whole(path: Path, data: bytes | memoryview, *, after: str = "") -> None:
    """Put data into a file, replacing what was there; an OutpaceError, ended by `after`, if that fails."""
    try:
        with writing(path) as file:
            file.write(data)
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}{after}") from error
