"""The packed form: the layout bit by bit, the file, and what happens when writing or reading goes wrong."""

from __future__ import annotations

import resource
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.config import ModelConfig
from outpace.files.header import header_bytes, read_header
from outpace.files.packed import MAGIC, PACKING_VERSION, PackedFile, TensorPlan, unpack, write_packed
from outpace.files.packing import (
    FLOAT_BYTES,
    KIND_OF_TYPE,
    LAYOUTS,
    PackedTensor,
    matrix_bytes,
    pack_blocks,
    pack_floats,
    tile_bytes,
)
from outpace.files.quants import QUANTISED, Blocks, take_apart
from tests.fake_models import random_blocks
from tests.special_files import SPECIAL


def random_canonical(kind: str, rows: int, cols: int, seed: int = 0) -> Blocks:
    layout = LAYOUTS[kind]
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 1 << layout.bits, (rows, cols), dtype=np.uint8)
    scales = rng.normal(size=(2, rows, -(-cols // layout.group))).astype(np.float16)
    return Blocks(q, scales[0], scales[1] if layout.has_minimum else None, layout.offset, layout.group)


def read_weight(kind: str, packed: np.ndarray, row: int, col: int, cols: int) -> tuple[int, float, float]:
    """(q, scale, minimum) of one weight, read from its tile by the written layout alone."""
    tile, c = packed[row // 16].tobytes(), row % 16
    group, k = divmod(col, 32)
    groups = -(-cols // 32)
    sizes = {"q4": 256, "q5": 320, "q6": 384, "q8": 512}
    block = tile[group * sizes[kind[:2]] :][: sizes[kind[:2]]]
    if kind == "q8s":
        q = block[64 * (k // 4) + 4 * c + k % 4]
    else:
        byte = block[64 * (k // 8) + 4 * c + k % 4]
        q = byte >> 4 if k % 8 >= 4 else byte & 15
        for plane in range({"q4": 0, "q5": 1, "q6": 2}[kind[:2]]):
            words = struct.unpack("<8Q", block[256 + 64 * plane :][:64])
            q |= (words[k // 4] >> (4 * c + k % 4) & 1) << (4 + plane)
    per_group = 2 if kind.endswith("m") or kind == "q6s" else 1
    halves = np.frombuffer(tile, "<f2", groups * per_group * 16, groups * sizes[kind[:2]])
    section = halves.reshape(groups, per_group, 16)[group]
    if kind == "q6s":
        return q, float(section[k // 16, c]), 0.0
    return q, float(section[0, c]), float(section[1, c]) if kind.endswith("m") else 0.0


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
@pytest.mark.parametrize(("rows", "cols"), [(16, 32), (37, 96), (5, 80)])
def test_layout_bit_by_bit(kind: str, rows: int, cols: int) -> None:
    blocks = random_canonical(kind, rows, cols)
    packed = pack_blocks(kind, blocks)
    assert packed.shape == (-(-rows // 16), tile_bytes(kind, cols)) and packed.shape[1] % 64 == 0
    for row in range(rows):
        for col in range(cols):
            minimum = 0.0 if blocks.minimum is None else blocks.minimum[row, col // blocks.group]
            expected = (blocks.q[row, col], blocks.scale[row, col // blocks.group], minimum)
            assert read_weight(kind, packed, row, col, cols) == expected


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_padding_is_zero(kind: str) -> None:
    packed = pack_blocks(kind, random_canonical(kind, 3, 40))
    for row, col in [(3, 0), (15, 39), (0, 40), (2, 63)]:
        q, scale, minimum = read_weight(kind, packed, row, col, 40)
        assert q == 0 and (row < 3 or scale == minimum == 0)


@pytest.mark.parametrize("kind", sorted(LAYOUTS))
@pytest.mark.parametrize(("rows", "cols"), [(16, 32), (37, 96), (5, 80)])
def test_unpack_inverts_packing(kind: str, rows: int, cols: int) -> None:
    blocks = random_canonical(kind, rows, cols)
    packed = pack_blocks(kind, blocks)
    tensor = PackedTensor(kind, rows, cols, 0, packed.nbytes, tile_bytes(kind, cols))
    assert packed.nbytes == matrix_bytes(kind, rows, cols)
    np.testing.assert_array_equal(unpack(tensor, packed.reshape(-1)), blocks.dequantise())


@pytest.mark.parametrize("kind", sorted(FLOAT_BYTES))
def test_float_tiles(kind: str) -> None:
    values = np.random.default_rng(0).normal(size=(21, 40)).astype(np.float32)
    raw = quants.quantize(values, GGMLQuantizationType[kind.upper()])
    packed = pack_floats(kind, raw.view(np.uint8).reshape(21, -1))
    size = FLOAT_BYTES[kind]
    tiles = packed.view(f"<u{size}").reshape(2, 64, 16)  # [tile][input][output]
    np.testing.assert_array_equal(tiles[1, :40, :5], raw.view(f"<u{size}").reshape(21, 40)[16:].T)
    assert not tiles[1, :, 5:].any() and not tiles[:, 40:].any()
    tensor = PackedTensor(kind, 21, 40, 0, packed.nbytes, tile_bytes(kind, 40))
    expected = quants.dequantize(raw, GGMLQuantizationType[kind.upper()])
    np.testing.assert_array_equal(unpack(tensor, packed.reshape(-1)), expected)


@pytest.mark.parametrize("type_name", sorted(QUANTISED - {"Q4_K", "Q5_K", "Q6_K"}))
def test_packed_weights_equal_those_of_the_file(type_name: str) -> None:
    raw = random_blocks(type_name, 40, 96, np.random.default_rng(0))
    kind = KIND_OF_TYPE[type_name]
    packed = pack_blocks(kind, take_apart(type_name, raw))
    tensor = PackedTensor(kind, 40, 96, 0, packed.nbytes, tile_bytes(kind, 96))
    expected = quants.dequantize(raw, GGMLQuantizationType[type_name])
    np.testing.assert_array_equal(unpack(tensor, packed.reshape(-1)), expected)


# --- the file


def tiny_config() -> ModelConfig:
    return ModelConfig(
        architecture="llama",
        vocab_size=40,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate_size=48,
        context_length=64,
        rms_eps=1e-5,
        activation="silu",
        attention_scale=0.25,
        embedding_scale=1.0,
        rope_inv_freq=(np.float32(1) / np.arange(1, 9, dtype=np.float32),),
        rope_scale=(1.0,),
        layer_rope=(0,),
        layer_window=(0,),
        tie_embeddings=True,
    )


def plans(chunk: Callable[[], None] | None = None) -> list[TensorPlan]:
    blocks = random_canonical("q4m", 40, 96)

    def matrix() -> Iterator[np.ndarray]:
        yield pack_blocks("q4m", Blocks(blocks.q[:32], blocks.scale[:32], blocks.minimum[:32], 0, 32))  # type: ignore[index]
        if chunk is not None:
            chunk()
        yield pack_blocks("q4m", Blocks(blocks.q[32:], blocks.scale[32:], blocks.minimum[32:], 0, 32))  # type: ignore[index]

    return [
        TensorPlan("norm", "f32", 5, 1, True, lambda: [np.arange(5, dtype=np.float32)]),
        TensorPlan("embed", "q4m", 40, 96, False, matrix),
    ]


def write(path: Path, chunk: Callable[[], None] | None = None, **options: object) -> None:
    sections = {"tokenizer": b"text \xff", "empty": b""}
    write_packed(
        path,
        config=tiny_config(),
        tensors=plans(chunk),
        sections=sections,
        source={"path": "x"},
        **options,  # type: ignore[arg-type]
    )


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    write(tmp_path / "sub" / "model", progress=lambda *report: seen.append(report))
    file = PackedFile(tmp_path / "sub" / "model")
    assert file.config.to_json() == tiny_config().to_json()
    np.testing.assert_array_equal(unpack(file.tensors["norm"], file.buffer), np.arange(5))
    expected = random_canonical("q4m", 40, 96).dequantise()
    np.testing.assert_array_equal(unpack(file.tensors["embed"], file.buffer), expected)
    assert all(tensor.offset % 64 == 0 for tensor in file.tensors.values())
    assert not file.buffer.flags.writeable
    assert (file.section("tokenizer"), file.section("empty"), file.section("x")) == (b"text \xff", b"", None)
    done = [report[0] for report in seen]
    assert done == sorted(done) and seen[-1][:2] == (len(file.buffer), len(file.buffer))
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["model"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(error):
        write(tmp_path / "model", chunk=fail)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OutpaceError, match="cannot write the packed model"):
            write(tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutpaceError, match="cannot write the packed model"):
        write(tmp_path / "file" / "model")


def damaged(raw: bytes, at: int, mask: int) -> bytes:
    return raw[:at] + bytes([raw[at] ^ mask]) + raw[at + 1 :]


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in {*range(0, len(good), 61), *range(len(good) - 20, len(good))}:
        path.write_bytes(damaged(good, at, 1 << int(rng.integers(8))))
        with pytest.raises(FormatError):
            PackedFile(path)


def test_a_system_that_grants_no_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "model")
    good = (tmp_path / "model").read_bytes()

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    write(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == good
    PackedFile(tmp_path / "again").close()


def test_blocks_that_change_places_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write(path)
    good = path.read_bytes()
    at = PackedFile(path).tensors["embed"].offset
    one, other = good[at : at + 64], good[at + 640 : at + 704]
    assert one != other
    path.write_bytes(good[:at] + other + good[at + 64 : at + 640] + one + good[at + 704 :])
    with pytest.raises(FormatError, match="damaged data"):
        PackedFile(path)


ABSURD: list[object] = [None, -1, 1.5, "x", [], {}, [[]], True, 10**30]


@pytest.mark.parametrize("field", ["source", "config", "total_bytes", "sections", "tensors", "checksums"])
def test_a_right_checksum_of_wrong_fields(tmp_path: Path, field: str) -> None:
    path = tmp_path / "model"
    write(path)
    fields, end = header_of(path)
    good = path.read_bytes()
    for value in [*ABSURD, ...]:
        changed = {name: v for name, v in fields.items() if name != field}
        if value is not ...:
            changed[field] = value
        path.write_bytes(header_bytes(MAGIC, changed).ljust(end, b" ") + good[end:])
        with pytest.raises(FormatError):
            PackedFile(path)


@pytest.mark.parametrize("part", ["kind", "rows", "cols", "offset", "nbytes", "tile_bytes"])
def test_a_right_checksum_of_a_wrong_tensor(tmp_path: Path, part: str) -> None:
    path = tmp_path / "model"
    write(path)
    fields, end = header_of(path)
    good = path.read_bytes()
    for value in ABSURD:
        embed = fields["tensors"]["embed"] | {part: value}
        changed = fields | {"tensors": fields["tensors"] | {"embed": embed}}
        path.write_bytes(header_bytes(MAGIC, changed).ljust(end, b" ") + good[end:])
        with pytest.raises(FormatError, match="damaged header"):
            PackedFile(path)


@pytest.mark.parametrize("text", [b"[]", b"1", b"", b"\xff", b"{}", b"[" * 100_000, b'{"version": "2"}'])
def test_a_right_checksum_of_no_header(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(MAGIC + struct.pack("<Q", len(text)) + text + struct.pack("<I", zlib.crc32(text)))
    with pytest.raises(FormatError):
        PackedFile(path)


def header_of(path: Path) -> tuple[dict[str, Any], int]:
    buffer = np.frombuffer(path.read_bytes(), np.uint8)
    return read_header(path, buffer, magic=MAGIC, version=PACKING_VERSION, kind="packed model")


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / "model")
    with pytest.raises(FormatError, match="model is not a regular file"):
        PackedFile(tmp_path / "model")


def test_damage_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write(path)
    good = path.read_bytes()
    for damaged in (
        good[:-1],
        good + b"\0",
        good[:100],
        b"",
        b"GGUF" + good[4:],
        good[:8] + b"\xff" * 8,
        good[:8] + bytes(99),
    ):
        path.write_bytes(damaged)
        with pytest.raises(FormatError):
            PackedFile(path)
    (length,) = struct.unpack("<Q", good[8:16])
    for at in range(0, 20 + length, 7):  # every part of the header is covered by its CRC
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(FormatError):
            PackedFile(path)
    with pytest.raises(FormatError, match="cannot read"):
        PackedFile(tmp_path / "absent")
