"""Progress bars: on a terminal only, and one line whatever passes through it."""

from __future__ import annotations

import io
import re
import sys

import pytest

from outpace.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_no_bar_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    with progress_bar() as progress:
        assert progress is None
    assert shown.getvalue() == ""


def test_many_labels_share_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar() as progress:
        assert progress is not None
        for number in range(40):
            progress(number + 1, 40, f"layers.{number}")
    lines_back = re.findall(r"\x1b\[(\d*)A", terminal.getvalue())
    assert "layers.39" in terminal.getvalue() and "100 %" in terminal.getvalue()
    assert set(lines_back) <= {"1"} and terminal.getvalue().count("\n") <= 2


def test_nothing_is_drawn_where_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar():
        pass
    assert terminal.getvalue() == ""
