"""Files are there whole or as they were, whoever writes at the same time."""

from __future__ import annotations

from pathlib import Path

import pytest

from outpace.core.errors import OutpaceError
from outpace.formats.whole import write_whole, writing
from tests import full_disk


def test_two_writers_do_not_write_into_each_others_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with writing(path) as one, writing(path) as other:
        one.write(b"one")
        other.write(b"the other")
        assert not path.exists() and len(list(tmp_path.iterdir())) == 2
    assert path.read_bytes() == b"one", "the last to end"
    assert [left.name for left in tmp_path.iterdir()] == ["x"]


def test_an_error_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_whole(path, b"old")
    with pytest.raises(KeyboardInterrupt), writing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    full_disk.fill(monkeypatch)
    with pytest.raises(OutpaceError, match=r"cannot write .*x: No space left on device; and so on$"):
        write_whole(path, b"newer", after="; and so on")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and [left.name for left in tmp_path.iterdir()] == ["x"]


def test_a_folder_that_is_none_gets_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match=r"cannot write .*file/x: "):
        write_whole(tmp_path / "file" / "x", b"data")
