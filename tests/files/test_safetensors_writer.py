"""Files of bytes as they are: the library of the format reads them, and each tensor is aligned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.files import safetensors_writer
from outpace.files.safetensors import FolderWeights
from outpace.files.safetensors_writer import ITEM_BYTES, TensorBytes, bytes_of, write_safetensors

TYPES = {
    "F64": np.float64,
    "I64": np.int64,
    "F32": np.float32,
    "I32": np.int32,
    "F16": np.float16,
    "BOOL": np.bool_,
}


def made() -> dict[str, np.ndarray]:
    """Odd sizes, which would misalign what lies behind them."""
    rng = np.random.default_rng(0)
    return {
        f"{'abcdef'[i]}.{name}": (rng.normal(size=(3, 5)) * 9).astype(kind)
        for i, (name, kind) in enumerate(TYPES.items())
    }


def test_the_library_reads_it(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.numpy").load_file
    arrays = made()
    write_safetensors(
        tmp_path / "model.safetensors",
        {name: bytes_of(a, name.partition(".")[2]) for name, a in arrays.items()},
    )
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_places_are_aligned_and_ours_reads_it(tmp_path: Path) -> None:
    write_safetensors(
        tmp_path / "model.safetensors",
        {name: bytes_of(a, name.partition(".")[2]) for name, a in made().items()},
    )
    data = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    assert length % 8 == 0 and data[8 : 8 + length].rstrip(b" ").endswith(b"}}")
    header = json.loads(data[8 : 8 + length])
    assert all(entry["data_offsets"][0] % ITEM_BYTES[entry["dtype"]] == 0 for entry in header.values())
    weights = FolderWeights(tmp_path)
    for name, values in made().items():
        assert weights.rows(weights.tensors[name]).tobytes() == values.tobytes()


def test_views_and_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_writer, "PIECE", 7)
    values, told = np.arange(40, dtype=np.float32), []
    rows = values.view(np.uint8).reshape(10, 16)[::3]
    write_safetensors(
        tmp_path / "model.safetensors",
        {"x": TensorBytes("F32", (4, 4), rows)},
        lambda done, total, label: told.append((done, total, label)),
    )
    weights = FolderWeights(tmp_path)
    assert weights.rows(weights.tensors["x"]).tobytes() == values.reshape(10, 4)[::3].tobytes()
    assert told[0] == (7, 64, "writing model.safetensors") and told[-1][:2] == (64, 64)


def test_what_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match=r"cannot write .*nowhere"):
        write_safetensors(tmp_path / "nowhere" / "model.safetensors", {})
    with pytest.raises(AssertionError, match="bytes, F32"):
        TensorBytes("F32", (3,), np.zeros(11, np.uint8))
