"""`outpace`: one command, what becomes of its errors, and its exit status.

The commands are imported inside `main`, so that Ctrl-C ends a start as it ends everything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from outpace.cli import streams
from outpace.cli.interrupts import INTERRUPTS
from outpace.core.errors import OutpaceError, one_line

TORCH_LACKS_MEMORY = "DefaultCPUAllocator: can't allocate memory: "  # its error is a RuntimeError
UNREAD, WRONG, INTERRUPTED = 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    try:
        with INTERRUPTS.watched(for_good=argv is None):
            streams.prepare()
            status = _command(argv)
            streams.finish()
            return status
    except BaseException as error:
        # On its way an interrupt may have become another error: that of an import, of a library.
        known = (INTERRUPTED, None) if INTERRUPTS.came else _answer(error)
        if known is None:
            raise
    status, message = known
    streams.flush()
    if status == INTERRUPTED:
        # The terminal has just printed ^C; leave the shell's prompt a line of its own.
        streams.note("\ninterrupted" if sys.stderr.isatty() else "interrupted")
    elif message is not None:
        streams.note(f"error: {message}")
    return status


def _command(argv: Sequence[str] | None) -> int:
    import typer

    from outpace.cli.app import app

    try:
        status = app(argv, prog_name="outpace", standalone_mode=False)
    except SystemExit as stop:  # typer's answer to a closed pipe
        raise BrokenPipeError from stop
    except typer.Abort as stop:
        raise KeyboardInterrupt from stop
    except typer.TyperException as error:
        raise OutpaceError(error.format_message()) from error
    if status == INTERRUPTED:  # typer has seen to it
        raise KeyboardInterrupt
    return status if isinstance(status, int) else 0


def _answer(error: BaseException) -> tuple[int, str | None] | None:
    """(exit status, line for standard error); None for what is a bug."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, None
    if isinstance(error, BrokenPipeError):
        return UNREAD, None
    if isinstance(error, OutpaceError):
        return WRONG, str(error)
    if isinstance(error, RuntimeError) and TORCH_LACKS_MEMORY in str(error):
        error = MemoryError(f"({str(error).partition(TORCH_LACKS_MEMORY)[2].partition('. ')[0]})")
    if isinstance(error, MemoryError):
        return WRONG, one_line(f"there is not enough memory {error}".rstrip())
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return WRONG, one_line(reason if error.filename is None else f"{error.filename}: {reason}")
    return None


def __getattr__(name: str) -> object:
    # For whoever wants the commands themselves: the name is known, the import is not paid by `main`'s caller.
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from outpace.cli.app import app

    return app
