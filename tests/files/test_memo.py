"""Arrays that are made once: kept on disk, made anew when damaged, done without when disk is missing."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.files.memo import Arrays, Memo
from tests.special_files import SPECIAL


class Making:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Arrays:
        self.times += 1
        return {"a": np.arange(3), "b": np.array([[0.5]], np.float32)}


def test_it_is_made_once_per_name_and_model(tmp_path: Path) -> None:
    make = Making()
    for packed in (tmp_path / "model.packed", tmp_path / "other.packed"):
        for name in ("one", "two"):
            for _ in range(3):
                arrays = Memo(packed)(name, make)
                assert arrays["a"].tolist() == [0, 1, 2] and arrays["b"].dtype == np.float32
    assert make.times == 4
    assert not list(tmp_path.glob("*.part"))


def test_arrays_that_do_not_fit_are_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, memo = Making(), Memo(tmp_path / "model.packed")
    path = memo.path("x.npz")
    for wrong in ({}, {"a": np.arange(4)}, {"b": np.arange(3)}):
        np.savez(path, **wrong)  # type: ignore[arg-type]
        assert memo("x", make, lambda found: found.keys() == {"a", "b"})["a"].tolist() == [0, 1, 2]
    assert make.times == 3
    assert caplog.messages == [f"making {path} anew: its arrays are not what belongs there"] * 3
    assert memo("x", make, lambda found: found.keys() == {"a", "b"})["a"].tolist() == [0, 1, 2]
    assert make.times == 3


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_made_anew(tmp_path: Path, kind: str) -> None:
    make, memo = Making(), Memo(tmp_path / "model.packed")
    SPECIAL[kind](memo.path("x.npz"))
    assert memo("x", make)["a"].tolist() == [0, 1, 2]
    assert memo.path("x.npz").is_file() or kind == "folder"


def test_a_damaged_file_is_made_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make, memo = Making(), Memo(tmp_path / "model.packed")
    memo("x", make)
    path = memo.path("x.npz")
    whole = path.read_bytes()
    for times, damaged in enumerate((b"", b"nonsense", whole[:-40], _npy()), start=2):
        path.write_bytes(damaged)
        assert memo("x", make)["a"].tolist() == [0, 1, 2]
        assert make.times == times
        assert len(caplog.messages) == times - 1
    assert all(line.startswith(f"making {path} anew: {path} ") for line in caplog.messages)
    assert path.read_bytes() == whole
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 64]) + whole[at + 1 :])
        memo("x", make)  # some bytes say nothing, such as times


def _npy() -> bytes:
    """A single array, without a name."""
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return file.getvalue()


def test_a_disk_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if "r" not in mode:
            raise OSError(errno.EROFS, "Read-only file system")
        return real(self, mode, *args, **options)

    def stays(self: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    make, memo = Making(), Memo(tmp_path / "model.packed")
    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "unlink", stays)
    assert memo("x", make)["a"].tolist() == memo("x", make)["a"].tolist() == [0, 1, 2]
    assert make.times == 2


def test_a_folder_that_is_not_there_costs_only_time(tmp_path: Path) -> None:
    make, memo = Making(), Memo(tmp_path / "gone" / "model.packed")
    assert memo("x", make)["a"].tolist() == memo("x", make)["a"].tolist() == [0, 1, 2]
    assert make.times == 2
