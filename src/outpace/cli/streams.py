"""Standard streams as commands need them: closed, full or narrow ones end in one line, and texts are UTF-8.

Standard input is read as UTF-8 whatever the locale. Standard output has the encoding of the locale (or of
PYTHONIOENCODING); a character that it lacks is written as an escape, and `finish` says so. A name of a file
that is not UTF-8 is written with its own bytes. On a terminal no control character gets through but tab and
line end.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from outpace.core.errors import OutpaceError

ERRORS = "outpace"  # how characters are written that an encoding lacks
_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f]")

MOST = 64 << 20  # bytes of a prompt: those of ten million tokens

_lost = 0  # characters that were written as escapes


def prepare() -> None:
    """Make the streams of this process usable, once."""
    _occupy()
    codecs.register_error(ERRORS, _escape)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    if sys.stdin is None:
        sys.stdin = _Closed("standard input")
    if sys.stdout is None:
        sys.stdout = _Closed("standard output")
    elif sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout.flush()
        os.set_blocking(sys.stdout.fileno(), True)  # a parent may have left it otherwise
        sys.stdout = _Output(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            errors=ERRORS,
            line_buffering=sys.stdout.line_buffering,
            write_through=sys.stdout.write_through,
        )


def finish() -> None:
    """Write what is still held; raises OutpaceError where not all characters could be written."""
    global _lost
    sys.stdout.flush()
    lost, _lost = _lost, 0
    if lost:
        raise OutpaceError(
            f"standard output is {sys.stdout.encoding}: {lost} characters were written as escapes; "
            "PYTHONIOENCODING=utf-8 keeps them"
        )


def flush() -> None:
    """Write what is still held, or forget it: after an error nothing else may complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        # The interpreter's own flush at exit must not complain about it either.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def note(message: str) -> None:
    """A line on standard error. If that is closed or full, nobody can be told."""
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr, flush=True)


def takes_colours() -> bool:
    """Whether standard output is a terminal, and nobody has asked for text alone (https://no-color.org)."""
    asked_not_to = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return isinstance(sys.stdout, _Output) and sys.stdout.isatty() and not asked_not_to


def write(text: str, colour: str = "") -> None:
    """On standard output, in the colour with these ANSI parameters if it `takes_colours`."""
    if colour and takes_colours() and isinstance(sys.stdout, _Output):
        sys.stdout.write_in(colour, text)
    else:
        sys.stdout.write(text)


def read_all() -> str:
    """All of standard input. Raises OutpaceError for what is not UTF-8, or longer than any prompt."""
    return _text(_bounded(_input().read), "the prompt on standard input")


def read_line() -> str | None:
    """The next line of standard input without its end (\\n or \\r\\n); None behind the last."""
    line = _text(_bounded(_input().readline), "the message on standard input")
    return without_line_end(line) if line else None


def without_line_end(text: str) -> str:
    """Without one \\n or \\r\\n at the end."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def utf8(name: str, text: str) -> str:
    """A text of the command line, whose bytes are UTF-8 whatever the locale. Raises OutpaceError."""
    try:
        return _text(os.fsencode(text), name)
    except UnicodeEncodeError:  # it did not come from there
        return text


def _text(data: bytes | str, name: str) -> str:
    try:
        return data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError:
        raise OutpaceError(f"{name} is not UTF-8 text") from None


def _bounded(read: Any) -> Any:
    """What `read` gives, at most MOST of it: a device or a program may write without end."""
    if len(data := read(MOST + 1)) > MOST:
        raise OutpaceError(f"standard input is too long, accepted are texts of {MOST >> 20} MB")
    return data


def _input() -> Any:
    """Standard input in bytes, where it has them."""
    return getattr(sys.stdin, "buffer", sys.stdin)


def _occupy() -> None:
    """Closed numbers below 3 would go to the next files that are opened, and libraries write to 1 and 2."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(number)


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    global _lost
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":  # a byte of a name that is no UTF-8
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    _lost += 1
    return letter.encode("unicode_escape").decode(), error.start + 1


class _Output(io.TextIOWrapper):
    """Standard output: its errors have its name, and text out of a model or a file steers no terminal."""

    def write(self, text: str) -> int:
        with _named():
            return super().write(_harmless(text) if self.isatty() else text)

    def write_in(self, colour: str, text: str) -> None:
        """On a terminal, which an interrupt does not leave in the colour: it is one write."""
        with _named():
            super().write(f"\x1b[{colour}m{_harmless(text)}\x1b[0m")

    def flush(self) -> None:
        with _named():
            super().flush()


def _harmless(text: str) -> str:
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


@contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutpaceError(f"standard output cannot be written: {error.strerror}") from None


class _Closed(io.TextIOBase):
    """In place of a stream that is closed: whoever uses it gets one line."""

    def __init__(self, name: str) -> None:
        self._name = name

    def _refuse(self, *_: Any) -> Any:
        raise OutpaceError(f"{self._name} is closed")

    read = readline = write = _refuse
