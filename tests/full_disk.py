"""A disk that is full half way through whatever is written whole (`outpace.files.whole`)."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import IO, Any

import pytest


class Half:
    """A file that takes half of the first write."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def __enter__(self) -> Half:
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        self._file.write(bytes(data)[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def fill(monkeypatch: pytest.MonkeyPatch, mode_of: str = "x") -> None:
    """From now on new files are `Half`; "a": those that are added to."""
    real = Path.open

    def opened(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file: Any = real(self, mode, *args, **options)
        return Half(file) if mode_of in mode else file

    monkeypatch.setattr(Path, "open", opened)
