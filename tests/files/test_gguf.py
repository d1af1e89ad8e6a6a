"""The GGUF reader: against ggml-org's reader on good files, and one clear error on every bad one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outpace.core.errors import FormatError, OutpaceError
from outpace.files import open_model
from outpace.files.gguf import BLOCK_TYPES, GGUFFile
from tests.fake_models import TENSOR_TYPES, write_gguf
from tests.special_files import SPECIAL


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, kind: int, payload: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + payload


def tensor(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def container(
    *, entries: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), data: bytes = b"", **counts: int
) -> bytes:
    """A GGUF file from its parts; `counts` (version, num_tensors, num_entries) replace the true ones."""
    header = b"GGUF" + struct.pack(
        "<IQQ",
        counts.get("version", 3),
        counts.get("num_tensors", len(tensors)),
        counts.get("num_entries", len(entries)),
    )
    header += b"".join(entries) + b"".join(tensors)
    return header + b"\0" * (-len(header) % 32) + data


def read(tmp_path: Path, content: bytes) -> GGUFFile:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    return GGUFFile(path)


def test_block_sizes_are_ggmls() -> None:
    for number, block in BLOCK_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (block.name, (block.values, block.nbytes)) == (kind.name, gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("tensor_type", TENSOR_TYPES)
def test_reads_what_the_reference_reader_reads(tmp_path: Path, tensor_type: str) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, "qwen2", tensor_type=tensor_type, hidden_size=256, intermediate_size=256)
    file, reference = GGUFFile(path), gguf.GGUFReader(path)
    expected = {
        key: field.contents() for key, field in reference.fields.items() if not key.startswith("GGUF.")
    }
    assert file.metadata == expected
    assert list(file.tensors) == [t.name for t in reference.tensors]
    for theirs in reference.tensors:
        ours = file.tensors[theirs.name]
        assert (ours.type_name, ours.offset) == (theirs.tensor_type.name, theirs.data_offset)
        assert ours.shape == tuple(int(n) for n in theirs.shape[::-1])
        np.testing.assert_array_equal(file.rows(ours).reshape(-1), theirs.data.view(np.uint8).reshape(-1))
    before = file.rows(file.tensors["token_embd.weight"])
    copy = before.copy()
    file.release()
    np.testing.assert_array_equal(before, copy)


def test_every_value_type(tmp_path: Path) -> None:
    values: list[tuple[int, str, Any]] = [
        (0, "B", 200), (1, "b", -3), (2, "H", 60000), (3, "h", -300), (4, "I", 4_000_000_000),
        (5, "i", -70000), (6, "f", 0.5), (7, "?", True), (10, "Q", 1 << 63), (11, "q", -(1 << 62)),
        (12, "d", 1e-300),
    ]  # fmt: skip
    entries = [entry(f"scalar{kind}", kind, struct.pack(f"<{code}", value)) for kind, code, value in values]
    entries += [
        entry(f"array{kind}", 9, struct.pack(f"<IQ3{code}", kind, 3, value, value, value))
        for kind, code, value in values
    ]
    entries += [
        entry("string", 8, text("žluť")),
        entry("strings", 9, struct.pack("<IQ", 8, 2) + text("a") + text("")),
        entry("broken text", 8, struct.pack("<Q", 1) + b"\xff"),
    ]
    metadata = read(tmp_path, container(entries=tuple(entries))).metadata
    for kind, _, value in values:
        assert metadata[f"scalar{kind}"] == value and type(metadata[f"scalar{kind}"]) is type(value)
        assert metadata[f"array{kind}"] == [value] * 3
    assert (metadata["string"], metadata["strings"], metadata["broken text"]) == ("žluť", ["a", ""], "�")


F32, Q4_0 = 0, 2
MAXIMUM = (1 << 64) - 1
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "holds only 0 bytes"),
    "magic": (b"GGML" + b"\0" * 40, "does not begin with 'GGUF'"),
    "version 1": (container(version=1), "version 1 is not read; accepted: 2, 3"),
    "big endian": (container(version=3 << 24), "big-endian"),
    "tensor count": (container(num_tensors=MAXIMUM), "tensors do not fit"),
    "metadata count": (container(num_entries=MAXIMUM), "metadata entries do not fit"),
    "key length": (
        container(entries=(struct.pack("<Q", MAXIMUM) + b"\0" * 32,)),
        "truncated file: a metadata key",
    ),
    "key text": (container(entries=(struct.pack("<Q", 1) + b"\xff" + b"\0" * 32,)), "not UTF-8"),
    "key twice": (container(entries=(entry("a", 0, b"\1"), entry("a", 0, b"\1"))), "'a' appears twice"),
    "value type": (container(entries=(entry("a", 13, b"\0" * 16),)), "unknown value type 13"),
    "string length": (
        container(entries=(entry("a", 8, struct.pack("<Q", 1 << 40)),)),
        "truncated file: metadata 'a'",
    ),
    "array length": (
        container(entries=(entry("a", 9, struct.pack("<IQ", 10, MAXIMUM)),)),
        "truncated file: metadata 'a'",
    ),
    "array of strings": (
        container(entries=(entry("a", 9, struct.pack("<IQ", 8, 1 << 61)),)),
        "truncated file: metadata 'a'",
    ),
    "array of arrays": (
        container(entries=(entry("a", 9, struct.pack("<IQ", 9, 1)),)),
        "unknown value type 9",
    ),
    "alignment": (
        container(entries=(entry("general.alignment", 4, struct.pack("<I", 0)),)),
        "alignment is 0",
    ),
    "odd alignment": (
        container(entries=(entry("general.alignment", 4, struct.pack("<I", 24)),)),
        "power of two",
    ),
    "alignment text": (container(entries=(entry("general.alignment", 8, text("32")),)), "alignment is '32'"),
    "dimensions": (container(tensors=(tensor("t", (1,) * 5, F32, 0),)), "5 dimensions; accepted: 1 to 4"),
    "dimension count": (
        container(tensors=(text("t") + struct.pack("<I", 1 << 31) + b"\0" * 64,)),
        "dimensions",
    ),
    "type": (
        container(tensors=(tensor("t", (256,), 10, 0),)),
        "type Q2_K.*accepted: BF16, F16, F32, Q4_0, Q4_1",
    ),
    "new type": (container(tensors=(tensor("t", (256,), 999, 0),)), "type number 999.*accepted: BF16"),
    "empty shape": (container(tensors=(tensor("t", (4, 0), F32, 0),)), "empty shape"),
    "part of a block": (
        container(tensors=(tensor("t", (40, 2), Q4_0, 0),)),
        "Q4_0 needs rows of 32 n values, not 40",
    ),
    "tensor twice": (
        container(tensors=(tensor("t", (8,), F32, 0), tensor("t", (8,), F32, 0)), data=b"\0" * 32),
        "'t' appears twice",
    ),
    "overlap": (
        container(tensors=(tensor("t", (8,), F32, 0), tensor("u", (8,), F32, 0)), data=b"\0" * 64),
        "'t' and 'u' overlap",
    ),
    "overlap at the end": (
        container(tensors=(tensor("t", (8,), F32, 32), tensor("u", (9,), F32, 0)), data=b"\0" * 64),
        "'u' and 't' overlap",
    ),
    "more tensors than any model": (
        container(num_tensors=70_000, data=b"\0" * 70_000 * 40),
        "70000 tensors do not fit; accepted: up to 65536",
    ),
    "more metadata than any model": (
        container(num_entries=70_000, data=b"\0" * 70_000 * 20),
        "70000 metadata entries do not fit; accepted: up to 65536",
    ),
    "offset": (container(tensors=(tensor("t", (8,), F32, 8),), data=b"\0" * 64), "not aligned to 32"),
    "offset outside": (
        container(tensors=(tensor("t", (8,), F32, 32),), data=b"\0" * 63),
        "truncated file: tensor",
    ),
    "offset overflow": (container(tensors=(tensor("t", (8,), F32, MAXIMUM - 31),)), "truncated file: tensor"),
    "size overflow": (container(tensors=(tensor("t", (1 << 62, 4), F32, 0),)), "truncated file: tensor"),
    "huge dimensions": (container(tensors=(tensor("t", (MAXIMUM,) * 4, F32, 0),)), "truncated file: tensor"),
    "data missing": (
        container(tensors=(tensor("t", (8,), F32, 0),), data=b"\0" * 31),
        "truncated file: tensor 't'",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_one_clear_error(tmp_path: Path, fault: str) -> None:
    content, message = BAD[fault]
    with pytest.raises(FormatError, match=message) as caught:
        read(tmp_path, content)
    assert "model.gguf" in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_that_fit_exactly_are_read(tmp_path: Path) -> None:
    data = np.arange(24, dtype="<f4").tobytes()
    file = read(
        tmp_path,
        container(tensors=(tensor("a", (8,), F32, 0), tensor("b", (4, 4), F32, 32)), data=data),
    )
    np.testing.assert_array_equal(file.rows(file.tensors["b"]).view("<f4"), np.arange(8, 24).reshape(4, 4))
    assert file.tensors["b"].shape == (4, 4)


def test_what_is_no_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="cannot read"):
        GGUFFile(tmp_path / "absent.gguf")
    for kind, make in SPECIAL.items():
        make(tmp_path / kind)
        with pytest.raises(FormatError, match="not a regular file"):
            GGUFFile(tmp_path / kind)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("tiny") / "model.gguf"
    write_gguf(path, "llama", tensor_type="Q4_1", num_hidden_layers=1, intermediate_size=64)
    return path.read_bytes()


EXTREMES = [0, 1, 255, 1 << 31, (1 << 32) - 1, 1 << 61, 1 << 63, MAXIMUM]


def test_the_undamaged_file_opens(tiny: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path))
    (tmp_path / "model.gguf").write_bytes(tiny)
    assert open_model(tmp_path / "model.gguf").config.num_layers == 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_an_error_or_a_model(
    tiny: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: st.DataObject
) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path))
    content = bytearray(tiny)
    for _ in range(data.draw(st.integers(0, 3))):
        # Most of the file is weights, where nothing can go wrong: half of the damage goes to the beginning.
        at = data.draw(st.one_of(st.integers(0, 2000), st.integers(0, len(tiny) - 8)))
        if data.draw(st.booleans()):
            content[at] ^= data.draw(st.integers(1, 255))
        else:
            content[at : at + 8] = struct.pack("<Q", data.draw(st.sampled_from(EXTREMES)))
    length = data.draw(st.one_of(st.just(len(tiny)), st.integers(0, len(tiny) - 1)))
    path = tmp_path / "model.gguf"
    path.write_bytes(content[:length])
    try:
        open_model(path).close()
    except OutpaceError as error:
        assert "\n" not in str(error)
