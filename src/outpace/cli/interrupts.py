"""Ctrl-C: noticed whatever becomes of the KeyboardInterrupt, from the first import to the last line."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from outpace.cli import _leave


class Interrupts:
    """`came`: whether Ctrl-C has ended what was running.

    Imports of libraries turn a KeyboardInterrupt into errors of their own, and destructors and callbacks drop
    it with a traceback: what was dropped comes once more. A process that has SIGINT ignored, or handles it in
    its own way, keeps that.
    """

    def __init__(self) -> None:
        self.came = False

    @contextmanager
    def watched(self, *, for_good: bool) -> Iterator[None]:
        """While a command runs. `for_good`: the process ends after it, so nothing is put back."""
        self.came = False
        main_thread = threading.current_thread() is threading.main_thread()
        if not main_thread or signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, _leave):
            yield
            return
        hook = sys.unraisablehook

        def dropped(unraisable: Any) -> None:
            if isinstance(unraisable.exc_value, KeyboardInterrupt):
                # Raised here it would be dropped again.
                threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
            else:
                hook(unraisable)

        sys.unraisablehook = dropped
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN if for_good else signal.default_int_handler)
            sys.unraisablehook = hook

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise KeyboardInterrupt


INTERRUPTS = Interrupts()
