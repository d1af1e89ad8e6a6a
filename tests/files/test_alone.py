"""A lock keeps other processes out, and ends with the process that holds it."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.files.alone import alone_at

HOLD = """
import sys, time
from pathlib import Path
from outpace.files.alone import alone_at

with alone_at(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_another_process_is_kept_out_until_the_holder_has_died(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("{}\n")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(OutpaceError, match=r"another process is at work on .*own\.jsonl"), alone_at(path):
            pass
        holder.kill()
    for _ in range(2):
        with alone_at(path), (tmp_path / "own.jsonl").open("a") as file:
            file.write("{}\n")
    assert path.read_text() == "{}\n" * 3


def test_where_files_cannot_be_locked_nobody_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*args: Any) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with alone_at(tmp_path / "file"), alone_at(tmp_path / "file"):
        assert (tmp_path / "file").exists()


def test_a_file_that_cannot_be_made_is_a_line(tmp_path: Path) -> None:
    with (
        pytest.raises(OutpaceError, match=r"cannot write .*: No such file"),
        alone_at(tmp_path / "none" / "file"),
    ):
        pass
