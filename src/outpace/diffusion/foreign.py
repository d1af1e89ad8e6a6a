"""Errors of the libraries that read a user's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from outpace.core.errors import OutpaceError


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Whatever a library raises inside is a slip of the file: an OutpaceError that begins with `what`."""
    try:
        yield
    except OutpaceError:
        raise
    except Exception as error:
        raise OutpaceError(f"{what}: {type(error).__name__}: {error}") from error
