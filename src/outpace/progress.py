"""Progress of what takes long: the callback that it reports to, and a bar on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from outpace.core.errors import one_line

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

Progress = Callable[[int, int, str], None]
"""(done, total, label)."""


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """A callback `(done, total, label)` that draws a bar on standard error; None if that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with _Bar() as bar:
        yield bar.update


class _Bar:
    """One bar, whatever its label. rich is imported when it is first drawn: most starts draw none."""

    def __init__(self) -> None:
        self._progress: RichProgress | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, done: int, total: int, label: str) -> None:
        label = one_line(label)
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            label_text = TextColumn("{task.description}", markup=False)
            share = TextColumn("{task.percentage:3.0f} %")
            columns = label_text, BarColumn(), share, TimeRemainingColumn(compact=True)
            self._progress = RichProgress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task(label)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done, total=total, description=label)
