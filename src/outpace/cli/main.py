"""`outpace`: the commands, and what becomes of their errors.

Exit status: 0 done; 1 a comparison that should have been identical and is not, or a reader that went away;
2 a bad option, file or name (one line on standard error); 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from outpace.cli import (
    bench,
    chat,
    datastore,
    diffusion,
    generate,
    methods,
    models,
    own_text,
    profile,
    render,
    train,
)
from outpace.core.errors import OutpaceError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command("generate")(generate.generate)
app.command("chat")(chat.chat)
app.add_typer(models.app, name="models")
datastore.app.command("write")(own_text.write)
datastore.app.command("count")(own_text.count)
app.add_typer(datastore.app, name="datastore")
app.add_typer(train.app, name="train")
app.add_typer(diffusion.app, name="diffusion")
app.command("methods")(methods.methods)
app.command("profile")(profile.profile)
app.command("bench")(bench.bench)

INTERRUPTED = 130


@app.callback(invoke_without_command=True)
def overview(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    """Same seed, same text: drafts only change the speed."""
    if version:
        from importlib.metadata import version as version_of

        print(version_of("outpace"))
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def _command(argv: Sequence[str] | None) -> object:
    try:
        return app(argv, prog_name="outpace", standalone_mode=False)
    except SystemExit as stop:  # typer's answer to a closed pipe
        raise BrokenPipeError from stop


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    try:
        status = _command(argv)
        sys.stdout.flush()
    except typer.TyperException as error:
        render.print_error(error.format_message())
        return 2
    except OutpaceError as error:
        render.print_error(str(error))
        return 2
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # Nobody reads any more; the interpreter's own flush at exit must not complain about it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if status == INTERRUPTED:
        # The terminal has just printed ^C; leave the shell's prompt a line of its own.
        render.note("\ninterrupted" if sys.stderr.isatty() else "interrupted")
    return status if isinstance(status, int) else 0
