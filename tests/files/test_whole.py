"""Files are there whole or as they were, whoever writes at the same time."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from outpace.core.errors import OutpaceError
from outpace.files.whole import part_folder, remove_abandoned, write_whole, writing
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


WRITERS = {
    "file": "with writing(Path(sys.argv[1])) as file:\n file.write(b'x' * 5000); file.flush()",
    "folder": "with part_folder(Path(sys.argv[1]).parent) as (p, _):\n (p / 'y').write_bytes(bytes(5000))",
}


def begin(kind: str, path: Path) -> subprocess.Popen[bytes]:
    """A process that is in the middle of writing."""
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom outpace.files.whole import part_folder, writing\n"
    )
    wait = "\n print('begun', flush=True); time.sleep(100)"
    command = [sys.executable, "-c", code + WRITERS[kind] + wait, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.stdout.close()
    return process


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_killed_writer_left_goes_at_once_and_a_living_ones_stays(tmp_path: Path, kind: str) -> None:
    dead, alive = begin(kind, tmp_path / "x"), begin(kind, tmp_path / "x")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        assert len(list(tmp_path.iterdir())) == 2
        assert [*remove_abandoned(tmp_path, dry_run=True).values()] == [5000]
        assert len(list(tmp_path.iterdir())) == 2
        assert [*remove_abandoned(tmp_path).values()] == [5000]
        assert len(list(tmp_path.iterdir())) == 1
        assert remove_abandoned(tmp_path) == {}
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        alive.kill()
        alive.wait()


def test_the_next_writer_of_a_file_removes_what_was_abandoned(tmp_path: Path) -> None:
    for name in ("x", "other", "x"):
        writer = begin("file", tmp_path / name)
        writer.kill()
        writer.wait()
    write_whole(tmp_path / "x", b"data")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2 and left[1] == "x" and left[0].startswith("other.")


def test_a_writer_in_this_process_is_alive(tmp_path: Path) -> None:
    with writing(tmp_path / "x") as file, part_folder(tmp_path) as (part, _):
        file.write(b"data")
        file.flush()
        (part / "y").write_bytes(b"data")
        assert remove_abandoned(tmp_path) == {}
    assert [left.name for left in tmp_path.iterdir()] == ["x"]


def test_an_empty_part_may_be_about_to_get_its_lock(tmp_path: Path) -> None:
    file, folder = tmp_path / "x.0123456789ab.part", tmp_path / ".part-x"
    file.touch()
    folder.mkdir()
    remove_abandoned(tmp_path)
    assert file.exists() and folder.exists()
    for part in (file, folder):
        os.utime(part, (time.time() - 100,) * 2)
    remove_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_other_files_stay(tmp_path: Path) -> None:
    for name in ("x.part", "x.0123.part", "x.0123456789ab.part.gz", ".partner", "x.0123456789AB.part"):
        (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "x.0123456789ab.part").symlink_to("x.part")
    before = sorted(tmp_path.iterdir())
    remove_abandoned(tmp_path)
    remove_abandoned(tmp_path / "absent")
    assert sorted(tmp_path.iterdir()) == before


def test_without_locks_a_day_has_to_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    write_whole(tmp_path / "x", b"data")
    old, young = tmp_path / "x.0123456789ab.part", tmp_path / "x.ba9876543210.part"
    for part in (old, young):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    assert remove_abandoned(tmp_path) == {old: 4}
    assert not old.exists() and young.exists()
