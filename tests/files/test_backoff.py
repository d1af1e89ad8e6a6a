"""The back-off table against the formula, computed token by token in plain Python."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.backoff import NUM_NEXT, STEPS_PER_BIT, BackoffTable, read_backoff, write_backoff
from outpace.files.npz import read_npz
from tests.special_files import SPECIAL

Arrays = dict[str, Any]
ORDER = 3


def texts(seed: int = 1, *, num_texts: int = 30, vocab_size: int = 12) -> list[list[int]]:
    """Texts with a structure: some tokens are followed by few others."""
    rng = random.Random(seed)
    return [
        [rng.choice([token, (token * token + 1) % vocab_size, rng.randrange(vocab_size)]) for token in seen]
        for seen in (rng.choices(range(vocab_size), k=rng.randrange(1, 40)) for _ in range(num_texts))
    ]


def witten_bell(corpus: Sequence[Sequence[int]], context: Sequence[int]) -> dict[int, float]:
    """p(x | context) of every token, from counts of this context and of those that end it."""
    if not context:
        counts = Counter(token for text in corpus for token in text)
        return {token: count / counts.total() for token, count in counts.items()}
    n = len(context)
    following = Counter(
        text[i] for text in corpus for i in range(n, len(text)) if list(text[i - n : i]) == list(context)
    )
    shorter = witten_bell(corpus, context[1:])
    w = following.total() / (following.total() + len(following))
    return {token: w * following[token] / following.total() + (1 - w) * p for token, p in shorter.items()}


def occurs(corpus: Sequence[Sequence[int]], context: Sequence[int]) -> int:
    """How often a context has been followed by a token."""
    n = len(context)
    return sum(list(text[i - n : i]) == list(context) for text in corpus for i in range(n, len(text)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> BackoffTable:
    path = tmp_path_factory.mktemp("backoff") / "table.npz"
    write_backoff(path, texts(), vocabulary="some", order=ORDER, min_count=2, pruned=None)
    return read_backoff(path)


def test_it_holds_the_best_tokens_of_the_longest_known_context(table: BackoffTable) -> None:
    corpus, rng = texts(), random.Random(5)
    lengths = Counter[int]()
    for _ in range(400):
        text = rng.choices(range(12), k=5) if rng.random() < 0.3 else rng.choice(corpus)[:]
        known = next(
            (
                n
                for n in range(ORDER, 0, -1)
                if len(text) >= n and occurs(corpus, text[-n:]) >= (2 if n > 1 else 1)
            ),
            0,
        )
        found = table.next(text)
        lengths[known] += 1
        if not known:
            assert found == []
            continue
        expected = witten_bell(corpus, text[-known:])
        best = sorted(expected.values(), reverse=True)[:NUM_NEXT]
        assert len(found) == len({token for token, _ in found}) == NUM_NEXT
        for (token, p), wanted in zip(found, best, strict=True):
            # Stored in steps: half a step either way.
            assert p == pytest.approx(expected[token], rel=2 ** (0.51 / STEPS_PER_BIT) - 1)
            assert expected[token] == pytest.approx(wanted)
    assert all(lengths[n] > 5 for n in range(1, ORDER + 1)), lengths


@pytest.mark.parametrize("pruned", [0.0, 0.5, 2.0])
def test_contexts_that_say_nothing_new_are_left_out(tmp_path: Path, pruned: float) -> None:
    """The likeliest token of every text stays, and nearly its probability; what would change them is kept."""
    options: dict[str, Any] = {"vocabulary": "v", "order": ORDER, "min_count": 2}
    corpus = texts(num_texts=200)
    whole = write_backoff(tmp_path / "whole.npz", corpus, **options, pruned=None)
    part = write_backoff(tmp_path / "part.npz", corpus, **options, pruned=pruned)
    left = {*read_npz(tmp_path / "whole.npz")["keys"].tolist()}
    kept = {*read_npz(tmp_path / "part.npz")["keys"].tolist()}
    assert kept <= left and part.num_contexts == len(kept) and (kept < left or not pruned)
    rng, differing = random.Random(2), 0
    for _ in range(2000):
        text = rng.choice(corpus)
        at = rng.randrange(1, len(text) + 1)
        (token, p), (same, near) = whole.next(text[:at])[0], part.next(text[:at])[0]
        if token != same:  # of two that are equally likely
            assert p == pytest.approx(dict(whole.next(text[:at]))[same], rel=1e-6)
        assert abs(np.log2(p / near)) <= pruned + 1.01 / STEPS_PER_BIT
        differing += p != near
    assert differing > 0 or pruned == 0


def test_contexts_do_not_reach_over_the_ends_of_texts(tmp_path: Path) -> None:
    table = write_backoff(tmp_path / "t.npz", [[1, 2], [3, 4], [1, 2], [3, 4]], vocabulary="", order=2)
    assert max(table.next([2]), default=(0, 0.0), key=lambda pair: pair[1]) == (0, 0.0)
    assert table.next([1])[0][0] == 2 and table.next([3])[0][0] == 4


def test_an_empty_corpus_knows_nothing(tmp_path: Path) -> None:
    assert write_backoff(tmp_path / "t.npz", [], vocabulary="").next([1, 2, 3]) == []


def test_a_table_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutpaceError, match=r"cannot write .*folder: "):
        write_backoff(tmp_path / "folder", texts(), vocabulary="v")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    write_backoff(path, texts(), vocabulary="v")
    whole = path.read_bytes()
    one_array = io.BytesIO()
    np.save(one_array, np.arange(3))
    for damaged in (
        one_array.getvalue(),
        b"",
        b"no table",
        whole[: len(whole) // 2],
        whole[:200] + b"\x00" * 64 + whole[264:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="back-off table"):
            read_backoff(path)
    with pytest.raises(FormatError, match="missing"):
        read_backoff(tmp_path / "missing")
    for kind, make in SPECIAL.items():
        make(tmp_path / kind)
        with pytest.raises(FormatError, match="is not a regular file"):
            read_backoff(tmp_path / kind)


def full(arrays: Arrays) -> Arrays:
    return arrays | {"index": np.arange(len(arrays["index"]), dtype=np.int32) % len(arrays["keys"])}


CHANGES: dict[str, Callable[[Arrays], Arrays]] = {
    "no free slot": full,
    "one free slot": lambda a: (
        full(a) | {"index": np.where(np.arange(len(a["index"])), full(a)["index"], -1)}
    ),
    "a slot outside": lambda a: a | {"index": np.where(a["index"] == 3, len(a["keys"]), a["index"])},
    "a slot below": lambda a: a | {"index": np.where(a["index"] == 3, -2, a["index"])},
    "a slot twice": lambda a: a | {"index": np.where(a["index"] == 3, 4, a["index"])},
    "too few slots": lambda a: a | {"index": a["index"][: len(a["index"]) // 2]},
    "no slots": lambda a: a | {"index": a["index"][:0]},
    "wide slots": lambda a: a | {"index": a["index"].astype(np.int64)},
    "a matrix of slots": lambda a: a | {"index": a["index"][:, None]},
    "too many keys": lambda a: a | {"keys": np.concatenate([a["keys"], a["keys"]])},
    "signed keys": lambda a: a | {"keys": a["keys"].astype(np.int64)},
    "one key": lambda a: a | {"keys": a["keys"][0]},
    "too few tokens": lambda a: a | {"tokens": a["tokens"][1:]},
    "flat tokens": lambda a: a | {"tokens": a["tokens"].reshape(-1)},
    "a token below": lambda a: a | {"tokens": a["tokens"] - 2},
    "float tokens": lambda a: a | {"tokens": a["tokens"].astype(np.float32)},
    "wide steps": lambda a: a | {"steps": a["steps"].astype(np.uint16)},
    "too few steps": lambda a: a | {"steps": a["steps"][:, 1:]},
    "no order": lambda a: a | {"order": np.array(0)},
    "an endless order": lambda a: a | {"order": np.array(10**6)},
    "several orders": lambda a: a | {"order": np.array([3])},
    "half an order": lambda a: a | {"order": np.array(2.5)},
    "a text as order": lambda a: a | {"order": np.array("3")},
    "a number as vocabulary": lambda a: a | {"vocabulary": np.array(3)},
    "a text as version": lambda a: a | {"version": np.array("1")},
    "nothing": lambda a: {},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_does_not_fit_together_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "t.npz"
    write_backoff(path, texts(), vocabulary="v", order=ORDER)
    arrays = read_npz(path)
    np.savez(path, allow_pickle=False, **CHANGES[change](arrays))
    with pytest.raises(FormatError, match=r"t\.npz is not a back-off table; `outpace datastore count`"):
        read_backoff(path)
    np.savez(path, allow_pickle=False, **arrays)
    assert read_backoff(path).next([1])


def test_the_table_of_an_empty_corpus_is_read(tmp_path: Path) -> None:
    write_backoff(tmp_path / "t.npz", [], vocabulary="v")
    table = read_backoff(tmp_path / "t.npz")
    assert table.next([1, 2]) == [] and table.max_token == -1
