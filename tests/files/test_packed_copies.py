"""What is known of packed models by their headers, and what is of no use any more."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from outpace.core.errors import OutpaceError
from outpace.files import catalog, open_model
from outpace.files.memo import Memo
from outpace.files.open import packed_path
from outpace.files.packed_copies import delete, matching, packed_copies, prune
from tests.fake_models import write_gguf, write_hf
from tests.special_files import SPECIAL


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(source: Path, quantize: str | None = None) -> Path:
    opened = open_model(source, quantize=quantize)
    opened.close()
    return opened.weights.path


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def older(packed: Path) -> None:
    """Makes it a file of version 1, whose header is whole."""
    raw = packed.read_bytes()
    (length,) = struct.unpack("<Q", raw[8:16])
    text = raw[16 : 16 + length].replace(b'"version": 2', b'"version": 1')
    packed.write_bytes(raw[:16] + text + struct.pack("<I", zlib.crc32(text)) + raw[20 + length :])


def test_nothing_is_packed(cache: Path) -> None:
    assert packed_copies() == [] and list(prune()) == []
    cache.write_text("in the way")
    assert packed_copies() == [] and list(prune()) == []


def test_a_copy_and_the_tables_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf", "qwen2")
    monkeypatch.chdir(tmp_path)
    packed = pack(Path("model.gguf"))
    Memo(packed)("costs-1", lambda: {"a": np.zeros(9)})
    (copy,) = packed_copies()
    assert copy.source == str(tmp_path / "model.gguf") and copy.quantize is None
    assert copy.state == "source present" and copy.packed == packed
    assert set(copy.files) == {packed, Memo(packed).path("costs-1.npz")}
    assert copy.num_bytes == sum(file.stat().st_size for file in copy.files)
    assert packed.name.startswith(copy.id)


@pytest.mark.parametrize("method", ["hydra", "markov_heads", "medusa"])
def test_trained_heads_belong_to_a_copy(tmp_path: Path, method: str) -> None:
    """They are a folder; other folders are nobody's."""
    write_gguf(tmp_path / "a.gguf", "llama")
    packed = pack(tmp_path / "a.gguf")
    alone = packed_copies()[0].num_bytes
    heads, other = Memo(packed).path(method), Memo(packed).path("other")
    for file in (heads / "config.json", heads / "features" / "states.f16", other / "file"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"123")
    [copy] = packed_copies()
    assert copy.num_bytes == alone + 6 and heads in copy.files and other not in copy.files
    delete(copy.files)
    assert files_in(packed.parent) == {other.name}
    assert packed_copies() == []


def test_states(tmp_path: Path, cache: Path) -> None:
    sources = [tmp_path / f"{name}.gguf" for name in ("gone", "changed", "kept", "old")]
    for source in sources:
        write_gguf(source, "qwen2")
    write_hf(tmp_path / "folder", "qwen2")
    packed = {source.stem: pack(source) for source in sources}
    packed["folder"] = pack(tmp_path / "folder", "q8")
    packed["pipe"] = cache / "packed" / f"{'a' * 32}.outpace"
    os.mkfifo(packed["pipe"])
    sources[0].unlink()
    os.utime(sources[1], ns=(1, 1))
    older(packed["old"])
    (tmp_path / "folder" / "model.safetensors").unlink()
    (cache / "packed" / f"{'b' * 32}.costs-1.npz").write_bytes(b"alone")
    (cache / "packed" / "mine.txt").write_bytes(b"something else")
    (cache / "packed" / f"{'c' * 32}.outpace").mkdir()
    found = {copy.id: copy for copy in packed_copies()}
    states = {name: found[path.name[:12]].state for name, path in packed.items()}
    assert states == {
        "gone": "source gone",
        "changed": "source changed",
        "kept": "source present",
        "old": "other version",
        "folder": "source changed",
        "pipe": "damaged",
    }
    assert found["b" * 12].state == "no model" and len(found) == 7
    assert found[packed["old"].name[:12]].source == str(sources[3])
    assert found[packed["folder"].name[:12]].quantize == "q8"


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"{}",
        b'{"version": 2}',
        b'{"version": 2, "source": 3}',
        b'{"version": 2, "source": {"path": 1}}',
    ],
)
def test_a_header_that_says_nothing(cache: Path, text: bytes) -> None:
    path = cache / "packed" / f"{'a' * 32}.outpace"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"OUTPACE1" + struct.pack("<Q", len(text)) + text + struct.pack("<I", zlib.crc32(text)))
    (copy,) = packed_copies()
    assert (copy.state, copy.source) == ("damaged", "")


def test_matching(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = tmp_path / "hub" / "models--org--name" / "snapshots" / "0123"
    write_hf(snapshot, "qwen2")
    (tmp_path / "alone").mkdir()
    write_gguf(tmp_path / "alone" / "model.gguf", "qwen2")
    write_gguf(tmp_path / "both.gguf", "qwen2")
    hub, alone = pack(snapshot), pack(tmp_path / "alone")
    write_hf(tmp_path / "floats", "qwen2")
    floats = {pack(tmp_path / "floats"), pack(tmp_path / "floats", "q4")}
    monkeypatch.chdir(tmp_path)

    def found(model: str) -> set[Path]:
        return {copy.files[0] for copy in matching(model)}

    assert found("org/name") == found(str(snapshot)) == found(hub.name[:12]) == found(str(hub)) == {hub}
    assert found("alone") == found("alone/model.gguf") == {alone}
    assert found("floats") == floats
    for other in ("org/nam", "name", ".", hub.name[:11], "", "x" * 5000):
        assert found(other) == set()
    shutil.rmtree(tmp_path / "floats")
    assert found("floats") == found(str(tmp_path / "floats") + "/") == floats, "gone, and still known"


def test_a_damaged_copy_is_found_by_its_source(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "qwen2")
    packed = pack(tmp_path / "model.gguf")
    packed.write_bytes(b"x")
    assert [copy.packed for copy in matching(str(tmp_path / "model.gguf"))] == [packed]


def test_prune(tmp_path: Path, cache: Path) -> None:
    sources = [tmp_path / f"{name}.gguf" for name in ("gone", "changed", "kept", "old")]
    for source in sources:
        write_gguf(source, "qwen2")
    gone, changed, kept, old = [pack(source) for source in sources]
    for packed in (gone, changed, kept, old):
        Memo(packed)("costs-1", lambda: {"a": np.zeros(9)})
    sources[0].unlink()
    os.utime(sources[1], ns=(1, 1))
    older(old)
    damaged = cache / "packed" / f"{'a' * 32}.outpace"
    SPECIAL["pipe"](damaged)
    part = cache / "packed" / "x.outpace.0123456789ab.part"
    part.write_bytes(b"half")
    (cache / "models").mkdir()
    (cache / "models" / ".part-x").mkdir()
    (cache / "models" / ".part-x" / "y.whl").write_bytes(b"half a wheel")
    before = {path: path.lstat() for path in cache.rglob("*")}
    wanted = list(prune(dry_run=True))
    assert {path: path.lstat() for path in cache.rglob("*")} == before
    done = list(prune())
    assert done == wanted and len(done) == 6
    sizes = dict(done)
    assert sizes[f"{part.name}, left by a process that was killed"] == 4
    assert sizes[".part-x, left by a process that was killed"] == 12
    for packed, source, state in ((gone, sources[0], "source gone"), (changed, sources[1], "source changed")):
        tables = Memo(packed).path("costs-1.npz")
        assert sizes[f"{packed.name[:12]} packed from {source}, {state}"] == sum(
            before[path].st_size for path in (packed, tables)
        )
    assert sizes[f"{old.name[:12]} packed from {sources[3]}, other version"] == before[old].st_size
    assert sizes["a" * 12 + ", damaged"] == 0
    left = {kept.name, *(Memo(packed).path("costs-1.npz").name for packed in (kept, old))}
    assert files_in(cache / "packed") == left and files_in(cache / "models") == set()
    assert list(prune()) == []


def test_remove_needs_no_source(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "model.gguf"
    write_gguf(source, "qwen2")
    for model in (str(source), packed_path(source).name[:12]):
        write_gguf(source, "qwen2")
        packed = pack(source)
        Memo(packed)("costs-1", lambda: {"a": np.zeros(9)})
        if model != str(source):
            model = packed.name[:12]
        source.unlink()
        assert set(catalog.remove(model)) == {packed, Memo(packed).path("costs-1.npz")}
        assert files_in(cache / "packed") == set()
        with pytest.raises(OutpaceError, match=f"there is nothing of {model} to delete; accepted: "):
            catalog.remove(model)


def test_a_file_that_cannot_be_deleted_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf", "qwen2")
    pack(tmp_path / "model.gguf")

    def stays(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", stays)
    with pytest.raises(OutpaceError, match=r"cannot delete .*outpace: Permission denied"):
        catalog.remove(str(tmp_path / "model.gguf"))
