"""Training data: every kind is read, and the first line that is none is named."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from outpace.core.errors import OutpaceError
from outpace.train.data import Pair, by_length, data_hash, frequent_tokens, read_pairs
from tests.special_files import SPECIAL

GOOD = [
    ({"source": "a b", "target": "ä\u2028b"}, Pair("a b", "ä\u2028b")),
    ({"prompt": "a", "answer": " b", "group": 3}, Pair("a", " b")),
    ({"prompt_ids": [1, 0], "token_ids": [5]}, Pair([1, 0], [5])),
]


def written(path: Path, *lines: Any) -> Path:
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def test_every_kind_is_read(tmp_path: Path) -> None:
    files = [written(tmp_path / str(number), line, line) for number, (line, _) in enumerate(GOOD)]
    assert read_pairs(files) == [pair for _, pair in GOOD for _ in range(2)]
    mixed = written(tmp_path / "mixed", *(line for line, _ in GOOD))
    assert read_pairs([mixed]) == [pair for _, pair in GOOD]
    mixed.write_bytes(mixed.read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n"))
    assert read_pairs([mixed]) == [pair for _, pair in GOOD]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "empty; expected an object with source and target"),
        (" \t", "empty"),
        ("{", "not JSON"),
        ("\udcff", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("null", "expected an object with source and target .*, none of them empty"),
        ("3", "expected"),
        ('"source target"', "expected"),
        ('["source", "target"]', "expected"),
        ({"source": "a"}, "expected"),
        ({"source": "a", "answer": "b"}, "expected"),
        ({"source": "a", "target": ""}, "expected .* none of them empty"),
        ({"source": " ", "target": "b"}, "expected .* none of them empty"),
        ({"source": "a", "target": None}, "expected"),
        ({"source": ["a"], "target": "b"}, "expected"),
        ({"prompt": 1, "answer": "b"}, "expected"),
        ({"prompt_ids": [], "token_ids": [1]}, "expected .* none of them empty"),
        ({"prompt_ids": [1], "token_ids": []}, "expected .* none of them empty"),
        ({"prompt_ids": [1], "token_ids": "1"}, "expected"),
        ({"prompt_ids": [1], "token_ids": [1.0]}, "expected"),
        ({"prompt_ids": [True], "token_ids": [1]}, "expected"),
        ({"prompt_ids": [-1], "token_ids": [1]}, "expected"),
        ({"prompt_ids": [1], "token_ids": [[1]]}, "expected"),
        ('{"source": "\\ud800", "target": "b"}', "not JSON"),
    ],
)
def test_a_line_that_is_none_is_named(tmp_path: Path, line: Any, message: str) -> None:
    path, fine = tmp_path / "data.jsonl", written(tmp_path / "fine.jsonl", GOOD[0][0])
    text = line if isinstance(line, str) else json.dumps(line)
    good = json.dumps(GOOD[1][0]).encode()
    path.write_bytes(b"\n".join([good, good, text.encode(errors="surrogateescape"), b"", good]))
    with pytest.raises(OutpaceError, match=rf"{re.escape(str(path))}, line 3: {message}") as raised:
        read_pairs([fine, path])
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_files_that_hold_nothing_are_named(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty")
    with pytest.raises(OutpaceError, match=r"empty.*: no lines; expected an object"):
        read_pairs([empty])
    with pytest.raises(OutpaceError, match=r"cannot read .*gone: No such file"):
        read_pairs([tmp_path / "gone"])
    for kind, make in SPECIAL.items():
        make(tmp_path / f"{kind}.jsonl")
        with pytest.raises(OutpaceError, match=rf"{kind}\.jsonl is not a regular file"):
            read_pairs([tmp_path / f"{kind}.jsonl"])


def test_the_hash_names_content_and_order() -> None:
    pairs = [pair for _, pair in GOOD]
    names = {
        data_hash(some)
        for some in (pairs, pairs[::-1], pairs[:2], [*pairs, pairs[0]], [Pair("a ", "b"), *pairs[1:]])
    }
    assert len(names) == 5 and data_hash(iter(pairs)) in names
    assert all(name.startswith("sha256:") for name in names)


@given(st.lists(st.lists(st.integers(0, 6), max_size=8), max_size=5), st.integers(1, 9))
def test_frequent_tokens(outputs: list[list[int]], count: int) -> None:
    counts = Counter(token for output in outputs for token in output)
    found = frequent_tokens(outputs, count)
    assert found.dtype == np.int32 and found.tolist() == sorted(set(found.tolist()))
    assert len(found) == min(count, len(counts))
    left = set(counts) - set(found.tolist())
    for kept in found.tolist():
        assert all((counts[kept], -kept) > (counts[other], -other) for other in left)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 60), st.integers(0, 3))
def test_batches_by_length(lengths: list[int], tokens: int, seed: int) -> None:
    batch = by_length(lengths, tokens, seed)
    first: list[list[int]] = []
    while sum(map(len, first)) < len(lengths):
        first.append(batch(len(first)))
    assert sorted(number for numbers in first for number in numbers) == list(range(len(lengths)))
    for numbers in first:
        padded = max(lengths[number] for number in numbers) * len(numbers)
        assert padded <= tokens or len(numbers) == 1
    spans = sorted((min(lengths[n] for n in ns), max(lengths[n] for n in ns)) for ns in first)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans)), "of like length"
    for epoch in (1, 2):
        again = [batch(epoch * len(first) + place) for place in range(len(first))]
        assert sorted(again) == sorted(first), "every epoch has all examples once"
    # A function of the step alone, in whatever order steps are asked for.
    other = by_length(lengths, tokens, seed)
    assert [other(step) for step in reversed(range(len(first)))] == first[::-1]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    lengths = list(range(1, 41))
    orders = [
        [by_length(lengths, 40, seed)(epoch * 21 + place) for place in range(21)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert orders[0] != orders[1] and orders[0] != orders[2]
