"""Arrays that are made once: kept on disk, made anew when damaged, done without when disk is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from outpace.formats.memo import Arrays, Memo


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


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    make, memo = Making(), Memo(tmp_path / "model.packed")
    memo("x", make)
    path = memo.path("x.npz")
    whole = path.read_bytes()
    for times, damaged in enumerate((b"", b"nonsense", whole[:-40]), start=2):
        path.write_bytes(damaged)
        assert memo("x", make)["a"].tolist() == [0, 1, 2]
        assert make.times == times
    assert path.read_bytes() == whole


def test_a_folder_that_is_not_there_costs_only_time(tmp_path: Path) -> None:
    make, memo = Making(), Memo(tmp_path / "gone" / "model.packed")
    assert memo("x", make)["a"].tolist() == memo("x", make)["a"].tolist() == [0, 1, 2]
    assert make.times == 2
