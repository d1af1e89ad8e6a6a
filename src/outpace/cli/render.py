"""What the commands print: text as it streams, facts, a line of figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from outpace.cli import streams
from outpace.core.errors import one_line
from outpace.progress import progress_bar

if TYPE_CHECKING:
    from outpace.engine.request import Generation
    from outpace.models.text import Model


class StreamedText:
    """Text that is printed piece by piece on standard output and leaves the cursor on a clean line."""

    def __init__(self) -> None:
        self._open_line = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A reader that went away wants no more of it.
        if self._open_line and kind is not BrokenPipeError:
            self.write("\n")

    def write(self, piece: str, colour: str = "") -> None:
        """Print a piece at once, in the colour with these ANSI parameters if the stream takes colours."""
        if piece:
            # First of all: an interrupt may come between any two of these lines.
            self._open_line = not piece.endswith("\n")
            streams.write(piece, colour)
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


def load_model(source: str, *, threads: int | None, **options: Any) -> Model:
    """outpace.load with its options, and a bar for what takes long: fetching and packing."""
    import outpace

    with progress_bar() as progress:
        return outpace.load(source, threads=threads, progress=progress, **options)
