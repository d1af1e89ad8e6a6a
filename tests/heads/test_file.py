"""Folders of proposal heads: what is written is read, and every fault is named in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import FormatError, OutpaceError
from outpace.heads.file import Heads, read_heads, write_heads
from outpace.heads.folder import CONFIG, WEIGHTS
from tests import full_disk
from tests.made_heads import random_heads, with_config

torch = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.numpy").save_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three heads, two of them learned, over states of width 6, that draft four tokens."""
    write_heads(tmp_path / "heads", random_heads(6, "sha256:x", num_heads=3, token_ids=[0, 2, 7, 9]))
    return tmp_path / "heads"


def tensors_in(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    loaded: dict[str, np.ndarray] = load_file(folder / WEIGHTS)
    return loaded


@pytest.mark.parametrize("first", ["identity", "learned"])
@pytest.mark.parametrize("token_ids", [None, [3], [0, 2, 7, 9]])
def test_what_was_written_is_read(tmp_path: Path, first: Any, token_ids: list[int] | None) -> None:
    heads = random_heads(6, "sha256:x", num_heads=3, first=first, token_ids=token_ids)
    write_heads(tmp_path / "a" / "b", heads)
    found = read_heads(tmp_path / "a" / "b")
    assert found.config == heads.config
    assert found.config.num_learned == (3 if first == "learned" else 2)
    assert found.tensors.keys() == heads.tensors.keys()
    for name, tensor in heads.tensors.items():
        assert found.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(found.tensors[name], tensor)
    if token_ids is None:
        assert found.token_ids is None
    else:
        assert found.token_ids is not None and found.token_ids.tolist() == token_ids
        assert found.token_ids.dtype == np.int32
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [CONFIG, WEIGHTS]


def test_arrays_may_lie_in_any_order(tmp_path: Path) -> None:
    heads = random_heads(6, "sha256:x", token_ids=range(9))
    assert heads.token_ids is not None
    tensors = {name: np.asfortranarray(tensor) for name, tensor in heads.tensors.items()}
    write_heads(tmp_path, Heads(heads.config, tensors, heads.token_ids[::2]))
    found = read_heads(tmp_path)
    for name, tensor in heads.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)
    assert found.token_ids is not None and found.token_ids.tolist() == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_floats_are_read_too(folder: Path, dtype: Any) -> None:
    from safetensors.torch import save_file as save_torch

    tensors = {
        name: torch.from_numpy(np.asarray(values, np.float32)).to(dtype)
        for name, values in tensors_in(folder).items()
        if name != "token_ids"
    }
    save_torch(tensors, str(folder / WEIGHTS))
    found = read_heads(folder)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor.float().numpy())


def with_tensors(**changes: Any) -> Callable[[Path], None]:
    """Tensors by name (dots as two underscores), None for one that is left out."""

    def damage(folder: Path) -> None:
        tensors = tensors_in(folder)
        for name, change in changes.items():
            name = name.replace("__", ".")
            tensors[name] = change(tensors[name]) if callable(change) else change
        save_file({n: t for n, t in tensors.items() if t is not None}, folder / WEIGHTS)

    return damage


def with_file(name: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = change((folder / name).read_bytes())
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)

    return damage


def with_nan(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.reshape(-1)[-1] = np.nan
    return values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_file(CONFIG, lambda data: None), r"cannot read .*config\.json"),
        (with_file(CONFIG, lambda data: data[:-9]), r"config\.json is not valid JSON"),
        (with_file(CONFIG, lambda data: b"[1]"), r"config\.json does not hold a JSON object"),
        (with_file(CONFIG, lambda data: b"\xff\xfe"), r"config\.json is not valid JSON"),
        (with_config(method="medusa"), "method 'medusa', accepted is 'blockwise'"),
        (with_config(method=...), "method None, accepted is 'blockwise'"),
        (with_config(version=2), "version 2, accepted is 1"),
        (with_config(num_heads=1), "num_heads is 1, accepted are whole numbers >= 2"),
        (with_config(num_heads=True), "num_heads is True"),
        (with_config(num_heads="4"), "num_heads is '4'"),
        (with_config(hidden_size=0), "hidden_size is 0, accepted are whole numbers >= 1"),
        (with_config(hidden_size=6.0), "hidden_size is 6.0"),
        (with_config(width=-1), "width is -1"),
        (with_config(width=1 << 40), "width is "),
        (with_config(width=...), "width is None"),
        (with_config(first="second"), "first is 'second', accepted are identity, learned"),
        (with_config(target=""), "target is '', expected the fingerprint"),
        (with_config(target=7), "target is 7"),
        (with_config(num_heads=4), r"hidden\.weight is F16\[16, 6\], expected floats \[24, 6\]"),
        (with_config(first="learned"), r"hidden\.weight is F16\[16, 6\], expected floats \[24, 6\]"),
        (with_file(WEIGHTS, lambda data: None), r"has no weights: expected model\.safetensors"),
        (with_file(WEIGHTS, lambda data: b""), "it holds only 0 bytes"),
        (with_file(WEIGHTS, lambda data: data[:7]), "it holds only 7 bytes"),
        (with_file(WEIGHTS, lambda data: data[:40]), "truncated"),
        (with_file(WEIGHTS, lambda data: data[:-1]), "truncated"),
        (with_file(WEIGHTS, lambda data: data[:8] + b"\xff" + data[9:]), "not valid JSON"),
        (with_tensors(output__bias=None), r"output\.bias is missing"),
        (with_tensors(output__weight=np.transpose), r"output\.weight is F16\[16, 12\]"),
        (with_tensors(hidden__bias=lambda x: x[:, None]), r"hidden\.bias is F16\[16, 1\]"),
        (with_tensors(hidden__bias=lambda x: x.astype(np.int16)), r"hidden\.bias is I16\[16\]"),
        (with_tensors(hidden__weight=with_nan), r"hidden\.weight has values that are not finite"),
        (with_tensors(output__bias=lambda x: x / np.float16(0)), r"output\.bias has values"),
        (
            with_tensors(hidden__weight=lambda x: np.float32(3e38) + x),
            r"hidden\.weight has .* above 65504, acc",
        ),
        (
            with_tensors(hidden__weight=lambda x: -np.float32(65505) + 0 * x),
            r"hidden\.weight has .* above 65504",
        ),
        (with_tensors(token_ids=np.array([2, 0], np.int32)), "token_ids are not ascending"),
        (with_tensors(token_ids=np.array([2, 2], np.int32)), "token_ids are not ascending"),
        (with_tensors(token_ids=np.array([-1, 2], np.int32)), "token_ids are not ascending"),
        (with_tensors(token_ids=np.array([2**31 - 1, -(2**31)], np.int32)), "token_ids are not ascending"),
        (with_tensors(token_ids=np.array([0, 2])), r"token_ids is I64\[2\], expected I32"),
        (with_tensors(token_ids=np.array([[0, 2]], np.int32)), r"token_ids is I32\[1, 2\]"),
        (with_tensors(token_ids=np.array([], np.int32)), r"token_ids is I32\[0\]"),
        (with_tensors(token_ids=np.array([0.0], np.float32)), r"token_ids is F32\[1\]"),
    ],
)
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
def test_every_fault_is_named(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(folder)
    with pytest.raises(FormatError, match=message) as raised:
        read_heads(folder)
    assert "\n" not in str(raised.value) and str(folder) in str(raised.value)


@pytest.mark.parametrize("name", ["hidden.weight", "hidden.bias", "output.weight", "output.bias"])
def test_tensors_of_other_shapes_are_no_heads(name: str) -> None:
    """They would be written, and refused at the next start."""
    heads = random_heads(6, "sha256:x", num_heads=3)
    with pytest.raises(AssertionError, match="tensors of shapes"):
        Heads(heads.config, {**heads.tensors, name: heads.tensors[name][1:]}, None)
    with pytest.raises(AssertionError, match="tensors of shapes"):
        Heads(heads.config, {key: one for key, one in heads.tensors.items() if key != name}, None)
    with pytest.raises(AssertionError, match="a list of tokens"):
        Heads(heads.config, heads.tensors, np.zeros((2, 2), np.int32))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"no folder of heads .*gone, accepted is what `outpace train"):
        read_heads(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match=r"no folder of heads .*file"):
        read_heads(tmp_path / "file")


def test_a_write_that_fails_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_heads(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    full_disk.fill(monkeypatch)
    other: Heads = random_heads(6, "sha256:y", num_heads=3, seed=1)
    with pytest.raises(OutpaceError, match=r"cannot write .*model\.safetensors: No space left on device"):
        write_heads(folder, other)
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert read_heads(folder).config == before.config


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match=r"cannot write .*file"):
        write_heads(tmp_path / "file" / "heads", random_heads(6, "x"))


@pytest.mark.parametrize("value", [7e4, -7e4, float("inf"), float("nan")])
def test_weights_that_float16_cannot_hold_are_not_written(tmp_path: Path, value: float) -> None:
    heads = random_heads(6, "x")
    heads.tensors["hidden.weight"][0, 0] = value
    with pytest.raises(OutpaceError, match=r"hidden\.weight .*above 65504, which float16 cannot hold"):
        write_heads(tmp_path / "heads", heads)
    assert not (tmp_path / "heads").exists()
