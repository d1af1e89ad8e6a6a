"""Copies of a file's bytes in huge pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.files import memory
from outpace.files.memory import HUGE_PAGE, copied, forget_mapped, has_room_for_copy, wanted_memory


@pytest.mark.parametrize("size", [1, HUGE_PAGE, HUGE_PAGE + 1, 9 * HUGE_PAGE + 4097])
def test_a_copy_has_the_bytes(size: int, tmp_path: Path) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    (tmp_path / "file").write_bytes(data.tobytes())
    mapped = np.memmap(tmp_path / "file", np.uint8, "r")
    copy = copied(mapped)
    np.testing.assert_array_equal(copy, data)
    assert not copy.flags.writeable
    assert copy.ctypes.data % HUGE_PAGE == 0
    forget_mapped(mapped)
    np.testing.assert_array_equal(mapped, data)
    forget_mapped(copy)  # which is not mapped from a file
    np.testing.assert_array_equal(copy, data)


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, wanted in (("huge", "huge"), ("mapped", "mapped"), ("", None)):
        monkeypatch.setenv("OUTPACE_MEMORY", text)
        assert wanted_memory() == wanted
    monkeypatch.delenv("OUTPACE_MEMORY")
    assert wanted_memory() is None
    monkeypatch.setenv("OUTPACE_MEMORY", "small")
    with pytest.raises(OutpaceError, match="OUTPACE_MEMORY is 'small', accepted are huge, mapped"):
        wanted_memory()


@pytest.mark.parametrize(
    ("granted", "available", "room"), [(True, 2001, True), (True, 2000, False), (False, 2001, False)]
)
def test_room(granted: bool, available: int, room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "grants_huge_pages", lambda: granted)
    monkeypatch.setattr(memory, "available_bytes", lambda: available)
    assert has_room_for_copy(1000) == room
