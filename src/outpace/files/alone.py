"""One process at a time at a file that grows: a second one is refused, where two would mix their lines."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outpace.core.errors import OutpaceError


@contextmanager
def alone_at(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made if there is none; an OutpaceError where another process has it.

    The system releases it however the process ends. Where files cannot be locked, there is none.
    """
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutpaceError(
                f"another process is at work on {path}; this one can go on when that has ended"
            ) from None
        except OSError:  # not every file system has locks
            pass
        yield
    finally:
        os.close(lock)
