"""The folder reader: against the safetensors package on good files, and one clear error on every bad one."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpace.core.errors import FormatError, OutpaceError
from outpace.files import open_model
from outpace.files.safetensors import FolderWeights
from tests.fake_models import write_hf


def save(folder: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    """A model.safetensors from a header (an object or raw bytes) and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    (folder / "model.safetensors").write_bytes(content)
    return folder


def one_more(**changes: Any) -> dict[str, Any]:
    return {"u": one(**changes)["t"]}


def one(**changes: Any) -> dict[str, Any]:
    return {"t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize("padding", [0, 1, 3])  # the data of real files need not be aligned
def test_reads_what_the_package_writes(tmp_path: Path, padding: int) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "a": rng.normal(size=(5, 7)).astype(np.float32),
        "b": rng.normal(size=(3,)).astype(np.float16),
        "ids": np.arange(4),
    }
    content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
    (length,) = struct.unpack("<Q", content[:8])
    save(tmp_path, content[8 : 8 + length] + b" " * padding, content[8 + length :])
    source = FolderWeights(tmp_path)
    assert {name: t.shape for name, t in source.tensors.items()} == {"a": (5, 7), "b": (3,), "ids": (4,)}
    np.testing.assert_array_equal(source.rows(source.tensors["a"]).copy().view("<f4"), arrays["a"])
    np.testing.assert_array_equal(source.rows(source.tensors["b"]).copy().view("<f2")[0], arrays["b"])
    source.release()
    np.testing.assert_array_equal(source.rows(source.tensors["a"]).copy().view("<f4"), arrays["a"])


def test_reads_shards(tmp_path: Path) -> None:
    model = write_hf(tmp_path, "qwen3", sharded=True)
    source = FolderWeights(tmp_path)
    assert len(source.files) > 1
    expected = {name: value.numpy() for name, value in model.state_dict().items()}
    assert source.tensors.keys() == expected.keys()
    for name, tensor in source.tensors.items():
        got = source.rows(tensor).copy().view("<f4").reshape(tensor.shape)
        np.testing.assert_array_equal(got, expected[name])


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        (b"", b"", "holds only 8 bytes"),
        (b"{}x", b"", "not valid JSON"),
        (b"[" * 100_000, b"", "not valid JSON"),
        (b"[]  ", b"", "does not hold a JSON object"),
        (one(), b"\0" * 15, "truncated file: tensor 't' ends at byte"),
        (one(data_offsets=[0, 1 << 60]), b"\0" * 16, "truncated file"),
        (one(data_offsets=[16, 0]), b"\0" * 16, "truncated file"),
        (one(data_offsets=[-16, 0]), b"\0" * 16, "damaged header: tensor 't'"),
        (one(data_offsets=[0, 16, 16]), b"\0" * 16, "damaged header"),
        (one(data_offsets=[0, 16.0]), b"\0" * 16, "damaged header"),
        (one(data_offsets=None), b"\0" * 16, "damaged header"),
        (one(shape=[1 << 40, 1 << 40]), b"\0" * 16, "does not fill its 16 bytes"),
        (one(shape=[2, 3]), b"\0" * 16, "does not fill its 16 bytes"),
        (one(shape=[True, 4]), b"\0" * 16, "damaged header"),
        (one(shape=[1] * 9), b"\0" * 16, "damaged header"),
        (one(dtype=3), b"\0" * 16, "damaged header"),
        ({"t": 1}, b"\0" * 16, "damaged header"),
        (one() | one_more(data_offsets=[0, 16]), b"\0" * 32, "'t' and 'u' overlap"),
        (one() | one_more(data_offsets=[12, 28]), b"\0" * 32, "'t' and 'u' overlap"),
        (one_more(data_offsets=[8, 24]) | one(), b"\0" * 32, "'t' and 'u' overlap"),
        (b'{"t": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "t": {}}', b"", "'t' appears twice"),
        (b"{}" + b" " * (17 << 20), b"", "longer than"),
    ],
)
def test_a_fault_is_one_clear_error(tmp_path: Path, header: Any, data: bytes, message: str) -> None:
    save(tmp_path, header, data)
    with pytest.raises(FormatError, match=message) as caught:
        FolderWeights(tmp_path)
    assert "model.safetensors" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [3, 1 << 40, (1 << 64) - 1])
def test_header_length(tmp_path: Path, length: int) -> None:
    with pytest.raises(FormatError, match=r"does not fit|not valid JSON"):
        FolderWeights(save(tmp_path, one(), b"\0" * 16, length=length))


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no weights: expected model\.safetensors"):
        FolderWeights(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FormatError, match=r"found pytorch_model\.bin"):
        FolderWeights(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": {"t": "absent.safetensors"}}, "'absent.safetensors', which is not in the folder"),
        ({"weight_map": {"t": "../other.safetensors"}}, "which is not in the folder"),
        ({"weight_map": {"t": 5}}, "which is not in the folder"),
        ({"weight_map": {"t": ""}}, "which is not in the folder"),
        ({"weight_map": {"t": ".."}}, "which is not in the folder"),
        ({"weight_map": {"t": "x" * 300}}, "which is not in the folder"),
        ({"weight_map": {"t": "nul\0"}}, "which is not in the folder"),
    ],
)
def test_bad_index(tmp_path: Path, index: Any, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "other.safetensors").write_bytes(b"")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match=message):
        FolderWeights(folder)


def test_tensors_side_by_side_and_empty_ones_do_not_overlap(tmp_path: Path) -> None:
    empty = {"e": {"dtype": "F32", "shape": [0], "data_offsets": [8, 8]}}
    save(tmp_path, one_more(data_offsets=[16, 32]) | empty | one(), b"\0" * 32)
    assert set(FolderWeights(tmp_path).tensors) == {"t", "u", "e"}


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path, one(), b"\0" * 16)
        (tmp_path / "model.safetensors").rename(tmp_path / f"{name}.safetensors")
    index = {"weight_map": {"t": "a.safetensors", "u": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="'t' is in another file too"):
        FolderWeights(tmp_path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_hf(folder, "gemma3", num_hidden_layers=1, dtype="bfloat16")
    return folder


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 8),
    st.sampled_from([1 << 31, 1 << 63, 10**40, 1e308, 1e-300, float("nan"), "", "yarn", "linear"]),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.sampled_from(["rope_type", "factor"]), st.sampled_from(["yarn", 2.0]), max_size=2),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_folder_is_an_error_or_a_model(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    weights = (tiny / "model.safetensors").read_bytes()
    config = json.loads((tiny / "config.json").read_text())
    (length,) = struct.unpack("<Q", weights[:8])
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), max_size=2)):
        config[name] = data.draw(_VALUES)
    content = bytearray(weights)
    for at in data.draw(st.lists(st.integers(0, 8 + length), max_size=2)):
        content[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.one_of(st.just(len(weights)), st.integers(0, len(weights))))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(content[:cut])
    try:
        open_model(tmp_path).close()
    except OutpaceError as error:
        assert "\n" not in str(error)
