"""The script that decodes beside busy processes, with engines that only pretend to."""

from __future__ import annotations

import subprocess

import pytest

from benchmarks import busy
from benchmarks.busy import Decode, busy_processes, fair_share, measure, table
from outpace.core.errors import OutpaceError


@pytest.mark.parametrize(
    ("threads", "neighbours", "processors", "share"),
    [
        (2, 0, 2, 1.0),
        (2, 1, 2, 2 / 3),
        (2, 2, 2, 1 / 2),
        (2, 4, 2, 1 / 3),
        (1, 1, 2, 1.0),  # there is a processor for each
        (1, 3, 2, 1 / 2),
        (4, 4, 2, 1 / 2),  # its own threads shared before, too
    ],
)
def test_fair_share(threads: int, neighbours: int, processors: int, share: float) -> None:
    assert fair_share(threads, neighbours, processors) == pytest.approx(share)


def test_busy_processes_run_within_the_block_only() -> None:
    with busy_processes(2) as processes:
        assert [process.poll() for process in processes] == [None, None]
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(KeyboardInterrupt), busy_processes(1) as processes:
        raise KeyboardInterrupt
    assert processes[0].poll() is not None


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many busy processes there are now, in the one element of a list; none is started."""
    count = [0]

    class Process:
        def __init__(self, command: list[str]) -> None:
            count[0] += 1

        def kill(self) -> None:
            count[0] -= 1

        def wait(self) -> None:
            pass

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(busy, "SETTLE_S", 0.0)
    return count


def test_engines_and_levels_take_turns(running: list[int]) -> None:
    turns: list[tuple[str, int]] = []

    def engine(name: str, quiet: float) -> Decode:
        def decode() -> tuple[list[int], float]:
            turns.append((name, running[0]))
            return [1, 2, 3], quiet / (1 + running[0]) + len(turns)

        return decode

    speeds = measure({"a": engine("a", 100.0), "b": engine("b", 50.0)}, [0, 2], rounds=2)
    assert turns == [("a", 0), ("b", 0), ("a", 2), ("b", 2)] * 2
    assert speeds["a"] == {0: [101.0, 105.0], 2: [100 / 3 + 3, 100 / 3 + 7]}
    assert running == [0]


def test_an_answer_that_depends_on_the_neighbours_is_an_error(running: list[int]) -> None:
    with pytest.raises(OutpaceError, match="b says something else beside 1 busy"):
        measure({"a": lambda: ([1], 1.0), "b": lambda: ([running[0]], 1.0)}, [0, 1], rounds=1)


def test_the_table_has_medians_and_shares() -> None:
    text = table({"outpace": {0: [100.0, 90.0, 300.0], 2: [20.0, 40.0, 50.0]}}, threads=2, processors=2)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]
    assert rows == [
        ["outpace", "0", "100.0", "90.0-300.0", "1.00", "1.00"],
        ["outpace", "2", "40.0", "20.0-50.0", "0.40", "0.50"],
    ]
