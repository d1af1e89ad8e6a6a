"""Files that are written whole or not at all: nobody reads half of one, and the old one stays till then.

A file being written is a part in the same folder, on which its writer holds a lock. The system releases the
lock however the writer ends, so that the next writer knows which parts were abandoned.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from outpace.core.errors import OutpaceError

_PART = re.compile(r"\.part-.+|(.+)\.[0-9a-f]{12}\.part", re.DOTALL)
_FOLDER_PREFIX = ".part-"
_NEWBORN_S = 60  # an empty part may be about to get its lock
_LOCKLESS_S = 24 * 3600  # where there are no locks: no writer takes so long


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """A file in the folder of `path`, which replaces it at the end or is removed if the context fails.

    Its name is unique: threads, and containers that share a folder, do not write into one file. Parts that
    earlier writers of `path` have abandoned are removed too.
    """
    remove_abandoned(path.parent, of=path.name)
    part = path.with_name(f"{path.name}.{secrets.token_hex(6)}.part")
    try:
        with part.open("xb") as file, _locked(part):
            yield file
            file.flush()
            part.replace(path)
    finally:
        with suppress(OSError):  # after success it has been renamed
            part.unlink()


@contextmanager
def part_folder(parent: Path) -> Iterator[tuple[Path, int]]:
    """A folder for parts, which goes at the end, and its lock: a descriptor for other writers there."""
    with (
        tempfile.TemporaryDirectory(prefix=_FOLDER_PREFIX, dir=parent, ignore_cleanup_errors=True) as part,
        _locked(Path(part)) as lock,
    ):
        yield Path(part), lock


def remove_abandoned(folder: Path, *, of: str | None = None, dry_run: bool = False) -> dict[Path, int]:
    """Removes the parts in a folder (`of` one file) whose writers have died; what they were, and their bytes.

    `dry_run` only looks.
    """
    removed = {}
    with suppress(OSError):  # no folder, no parts
        for name in sorted(os.listdir(folder)):
            found = _PART.fullmatch(name)
            if found and (of is None or found[1] == of):
                with suppress(OSError):  # somebody else was faster, or this user may not
                    num_bytes = _remove_if_abandoned(folder / name, dry_run)
                    if num_bytes is not None:
                        removed[folder / name] = num_bytes
    return removed


def write_whole(path: Path, data: bytes | memoryview, *, after: str = "") -> None:
    """Put data into a file, replacing what was there; an OutpaceError, ended by `after`, if that fails."""
    try:
        with writing(path) as file:
            file.write(data)
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}{after}") from error


def append_whole(path: Path, data: bytes) -> None:
    """Add data to a file; an OutpaceError if that fails, and then the file is as it was."""
    try:
        size = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError:
            with suppress(OSError):  # what fitted on a full disk
                os.truncate(path, size)
            raise
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _locked(part: Path) -> Iterator[int]:
    lock = os.open(part, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # not every file system has locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def _remove_if_abandoned(part: Path, dry_run: bool) -> int | None:
    """How many bytes the part had; None where its writer is alive."""
    lock = os.open(part, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        age_s = time.time() - os.fstat(lock).st_mtime
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        except OSError:
            if age_s < _LOCKLESS_S:
                return None
        files = [file for file in part.rglob("*") if file.is_file()] if part.is_dir() else [part]
        num_bytes = sum(file.stat().st_size for file in files)
        if not num_bytes and age_s < _NEWBORN_S:
            return None
        if not dry_run:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        return num_bytes
    finally:
        os.close(lock)
