"""Only regular files are opened, and nothing waits for the others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from outpace.core.errors import FormatError
from outpace.files.regular import open_regular
from tests.special_files import SPECIAL


def test_a_file_and_a_link_to_one_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"data"
        with open_regular(str(tmp_path / name)) as file:
            assert file.read(2) == b"da"


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str, linked: bool) -> None:
    path = tmp_path / "special"
    SPECIAL[kind](path)
    if linked:
        path = tmp_path / "link"
        path.symlink_to("special")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(FormatError, match=f"{path} is not a regular file"):
        open_regular(path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        open_regular(tmp_path / "loop")
