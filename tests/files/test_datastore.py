"""The datastore against sorting and searching in plain Python, and what its reader refuses."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.datastore import (
    END,
    KEY_LENGTH,
    MAGIC,
    Datastore,
    suffix_order,
    vocabulary_id,
    write_datastore,
)
from outpace.files.header import header_bytes
from tests.special_files import SPECIAL

TEXTS = [[1, 2, 3, 1, 2, 4], [], [3, 1, 2], [0] * 40, [4]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_datastore(tmp_path / "x.datastore", TEXTS, vocab_size=5, vocabulary="v")
    return tmp_path / "x.datastore"


@given(st.lists(st.integers(END, 2), min_size=1, max_size=80))
def test_the_order_is_that_of_the_keys(tokens: list[int]) -> None:
    wanted = sorted(range(len(tokens)), key=lambda at: (tokens[at : at + KEY_LENGTH], at))
    assert suffix_order(np.array(tokens, "<i4")).tolist() == wanted


def test_what_was_written_is_there(path: Path) -> None:
    store = Datastore(path)
    assert store.tokens.tolist() == [token for text in TEXTS if text for token in [*text, END]]
    assert (store.num_texts, store.vocab_size, store.vocabulary) == (4, 5, "v")
    assert not store.tokens.flags.writeable


@given(st.lists(st.integers(0, 4), min_size=1, max_size=KEY_LENGTH))
def test_find_equals_a_linear_scan(string: list[int]) -> None:
    store = FOUND
    tokens = store.tokens.tolist()
    low, high = store.find(string)
    places = [at for at in range(len(tokens)) if tokens[at : at + len(string)] == string]
    assert sorted(store.order[low:high].tolist()) == places


@pytest.fixture(autouse=True, scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A store of many repeats, opened once for all examples."""
    global FOUND
    path = tmp_path_factory.mktemp("store") / "x.datastore"
    texts = np.random.default_rng(0).integers(0, 5, (8, 60)).tolist()
    write_datastore(path, [*texts, [0, 0, 1] * 30, [4] * 50], vocab_size=5, vocabulary="v")
    FOUND = Datastore(path)


FOUND: Datastore


@pytest.mark.parametrize("string", [[0], [0] * 16, [1, 2], [3, 1, 2], [2, 4], [4], [2, 3, 1], [4, 4], [2, 0]])
def test_find_across_texts(path: Path, string: list[int]) -> None:
    store = Datastore(path)
    tokens = store.tokens.tolist()
    low, high = store.find(string)
    places = [at for at in range(len(tokens)) if tokens[at : at + len(string)] == string]
    assert sorted(store.order[low:high].tolist()) == places


def test_nothing_is_left_of_a_corpus_that_is_empty_or_breaks_off(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="empty"):
        write_datastore(tmp_path / "x", [[], []], vocab_size=5, vocabulary="v")
    with pytest.raises(OutpaceError, match="cannot write"):
        write_datastore(tmp_path / "none" / "x", [[1]], vocab_size=5, vocabulary="v")
    assert not list(tmp_path.iterdir())


def damaged(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.parametrize("at", [20, 60])
def test_a_damaged_header_is_refused(path: Path, at: int) -> None:
    damaged(path, at)
    with pytest.raises(FormatError, match=r"damaged header|damaged data"):
        Datastore(path)


@pytest.mark.parametrize("at", [-1, -100, -300])
def test_damaged_data_is_refused(path: Path, at: int) -> None:
    damaged(path, at)
    with pytest.raises(FormatError, match="damaged data"):
        Datastore(path)


@pytest.mark.parametrize("size", [0, 3, 17, 100, -4])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(FormatError, match=r"x\.datastore"):
        Datastore(path)


def test_foreign_files_and_versions_are_refused(path: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a datastore at all")
    with pytest.raises(FormatError, match="is not a datastore"):
        Datastore(tmp_path / "text")
    with pytest.raises(FormatError, match="cannot read"):
        Datastore(tmp_path / "missing")
    rewrite(path, version=9)
    with pytest.raises(FormatError, match="version 9, accepted is 1"):
        Datastore(path)


def rewrite(path: Path, data: np.ndarray | None = None, **changes: object) -> None:
    """The file with other fields and data, whose checksums are right; None takes a field out."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[8:16])
    start = -(-(20 + length) // 64) * 64
    body = raw[start:] if data is None else data.astype("<i4").tobytes()
    fields = json.loads(raw[16 : 16 + length]) | {"data_crc": zlib.crc32(body)} | changes
    head = header_bytes(MAGIC, {name: value for name, value in fields.items() if value is not None})
    path.write_bytes(head.ljust(-(-len(head) // 64) * 64, b"\0") + body)


@pytest.mark.parametrize("field", ["num_tokens", "num_texts", "vocab_size", "vocabulary", "data_crc"])
@pytest.mark.parametrize("value", [None, 1.5, [], {}, True, -1, 0, 10**30])
def test_a_right_checksum_of_wrong_fields_is_refused(path: Path, field: str, value: Any) -> None:
    rewrite(path, **{field: value})
    with pytest.raises(FormatError, match=r"x\.datastore"):
        Datastore(path)


@pytest.mark.parametrize(
    ("tokens", "order"),
    [
        ([0, 1, 5, END], [0, 1, 2, 3]),
        ([0, 1, -2, END], [0, 1, 2, 3]),
        ([0, 1, 2**31 - 1, END], [0, 1, 2, 3]),
        ([0, 1, 2, 3], [0, 1, 2, 3]),
        ([0, 1, 2, END], [0, 1, 2, 4]),
        ([0, 1, 2, END], [0, 1, 2, -1]),
    ],
)
def test_a_right_checksum_of_wrong_data_is_refused(path: Path, tokens: list[int], order: list[int]) -> None:
    rewrite(path, np.array([tokens, order]), num_tokens=4, num_texts=1)
    with pytest.raises(FormatError, match="wrong data; build the datastore anew"):
        Datastore(path)
    rewrite(path, np.array([[0, 1, 2, END], [3, 0, 1, 2]]), num_tokens=4, num_texts=1)
    assert Datastore(path).find([1]) == (2, 3)


def test_no_data_is_refused(path: Path) -> None:
    rewrite(path, np.zeros(0), num_tokens=0, num_texts=0)
    with pytest.raises(FormatError, match="damaged data"):
        Datastore(path)


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / "x")
    with pytest.raises(FormatError, match="x is not a regular file"):
        Datastore(tmp_path / "x")


def test_a_vocabulary_is_named_by_its_texts() -> None:
    table = {0: b"a", 1: b"", 2: b"bc", 3: b"", 4: b""}
    name = vocabulary_id(table, 3)
    assert name == vocabulary_id(table, 5) != vocabulary_id(table, 2)
    assert name != vocabulary_id({**table, 1: b"b", 2: b"c"}, 3)
    assert name != vocabulary_id({0: b"", 1: b"a", 2: b"bc"}, 3)


def test_progress_reaches_its_end() -> None:
    seen: list[tuple[int, int, str]] = []
    suffix_order(np.arange(50, dtype="<i4"), lambda *call: seen.append(call))
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] == len(seen) - 1
