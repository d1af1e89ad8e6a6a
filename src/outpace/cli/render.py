"""What the commands print: text as it streams, a line of figures, progress bars where there is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from outpace.cli import streams
from outpace.core.errors import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from outpace.api import Generation, Model
    from outpace.formats.packed import Progress as OnProgress


class StreamedText:
    """Text that is printed piece by piece on standard output and leaves the cursor on a clean line."""

    def __init__(self) -> None:
        self._open_line = False

    def __enter__(self) -> StreamedText:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A reader that went away wants no more of it.
        if self._open_line and kind is not BrokenPipeError:
            self.write("\n")

    def write(self, piece: str) -> None:
        """Print a piece at once."""
        if piece:
            # First of all: an interrupt may come between any two of these lines.
            self._open_line = not piece.endswith("\n")
            sys.stdout.write(piece)
            sys.stdout.flush()


def note(message: str) -> None:
    """A line for whoever is watching: on standard error, so that standard output stays what was asked for."""
    streams.note(one_line(message))


def print_error(message: str) -> None:
    """The one line that a failure gets."""
    note(f"error: {message}")


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Print names and what files say of them, a line each."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        print(f"{name.ljust(width)}  {one_line(value)}")


def figures(generation: Generation) -> str:
    """One generation's speed in a line."""
    stats = generation.stats
    return (
        f"{stats.completion_tokens} tokens, {stats.tokens_per_s:.1f} tokens/s, "
        f"{stats.mean_accepted_length:.2f} tokens per call, "
        f"first token after {stats.time_to_first_token_s:.2f} s"
    )


def load_model(source: str, *, threads: int | None) -> Model:
    """outpace.load, with a bar for what takes long: fetching and packing."""
    import outpace

    with progress_bar() as progress:
        return outpace.load(source, threads=threads, progress=progress)


@contextmanager
def progress_bar() -> Iterator[OnProgress | None]:
    """A callback `(done, total, label)` that draws a bar on standard error; None if that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _Bar() as bar:
        yield bar.update


class _Bar:
    """One bar, whatever its label. rich is imported when it is first drawn: most starts draw none."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, total: int, label: str) -> None:
        label = one_line(label)
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            label_text = TextColumn("{task.description}", markup=False)
            columns = label_text, BarColumn(), TextColumn("{task.percentage:3.0f} %")
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task(label)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done, total=total, description=label)
