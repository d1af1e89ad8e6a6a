"""Reading regular files alone: a pipe would wait for a writer, and a device may never end."""

from __future__ import annotations

import errno
import io
import os
import stat
from io import BufferedReader
from pathlib import Path

from outpace.core.errors import FormatError


def open_regular(path: str | Path) -> BufferedReader:
    """Opens a regular file, or a link to one, for reading, and never waits for it.

    OSError where it cannot be opened; FormatError for a folder, pipe, socket or device.
    """
    flags = os.O_RDONLY
    for name in ("O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK", "O_BINARY"):  # not every system has all of them
        flags |= getattr(os, name, 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise _not_regular(path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _not_regular(path)
        return open(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: str | Path, what: str) -> str:
    """All of a text file, a mark of the byte order left out. FormatError for what is none, or cannot be read.

    `what` it holds, for the message.
    """
    try:
        with io.TextIOWrapper(open_regular(path), encoding="utf-8-sig") as file:
            return file.read()
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except OSError as error:
        reason = error.strerror or str(error)
    raise FormatError(f"cannot read {what} in {path}: {reason}")


def _not_regular(path: str | Path) -> FormatError:
    return FormatError(f"{path} is not a regular file")
