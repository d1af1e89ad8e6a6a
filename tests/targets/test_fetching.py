"""Ways to read weights: what is chosen follows the clock, what is computed does not."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from outpace import _native
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.files.memo import Memo
from outpace.files.memory import copied
from outpace.pricing import clock
from outpace.targets import fetching, native
from outpace.targets.fetching import SIZES, USUAL, Fetch, are_fetches, measured
from outpace.targets.native import NativeTarget
from tests.native_models import INSTRUCTION_SETS, gguf_target, instruction_set
from tests.rows import on, opened


class Machine:
    """Calls take what `seconds(tokens, fetch, huge)` says, on a clock of its own."""

    def __init__(self, seconds, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
        self.seconds, self.now, self.calls = seconds, 0.0, 0
        self.fetches = dict.fromkeys(SIZES, USUAL)
        self.huge = False
        monkeypatch.setattr(clock, "now", lambda: self.now)

    def call(self, tokens: int) -> None:
        self.calls += 1
        self.now += self.seconds(tokens, self.fetches[tokens], self.huge)

    def use(self, tokens: int, fetch: Fetch) -> None:
        for size in SIZES:
            if size >= tokens:
                self.fetches[size] = fetch

    def use_huge(self, huge: bool) -> None:
        self.huge = huge


def test_the_fastest_way_of_every_size_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {1: Fetch(2, 65536, 4), 2: Fetch(0, 0, 1), 4: USUAL, 8: Fetch(1, 2048, 1)}

    def seconds(tokens: int, fetch: Fetch, huge: bool) -> float:
        likeness = sum(a == b for a, b in zip(fetch, wanted[tokens], strict=True))
        return 0.010 - 0.001 * likeness - 0.002 * huge

    machine = Machine(seconds, monkeypatch)
    found = measured(machine.call, machine.use, machine.use_huge)
    assert [Fetch(*row) for row in found["fetches"].tolist()] == [wanted[size] for size in SIZES]
    assert found["huge"].tolist() == [1]
    assert are_fetches(found)
    assert measured(machine.call, machine.use, None)["huge"].tolist() == [0]  # no room for a copy


def test_what_gains_little_or_by_chance_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = itertools.cycle([0.004, 0.0, 0.009, 0.002, 0.0, 0.007, 0.0])

    def seconds(tokens: int, fetch: Fetch, huge: bool) -> float:
        return 0.010 + next(noise) - 0.0001 * (fetch != USUAL) - 0.0001 * huge

    machine = Machine(seconds, monkeypatch)
    found = measured(machine.call, machine.use, machine.use_huge)
    assert [Fetch(*row) for row in found["fetches"].tolist()] == [USUAL] * len(SIZES)
    assert found["huge"].tolist() == [0]


@pytest.mark.parametrize(("gain", "huge"), [(0.1, 1), (0.01, 0)])
def test_huge_pages_are_taken_for_calls_of_several_tokens(
    gain: float, huge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(tokens: int, fetch: Fetch, huge: bool) -> float:
        return 0.010 * (1 - gain * (huge and tokens >= 4))

    machine = Machine(seconds, monkeypatch)
    assert measured(machine.call, machine.use, machine.use_huge)["huge"].tolist() == [huge]


def test_slow_models_are_timed_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for pace in (0.001, 0.1):
        machine = Machine(lambda tokens, fetch, huge, pace=pace: pace, monkeypatch)
        measured(machine.call, machine.use, machine.use_huge)
        calls.append(machine.calls)
    assert calls[0] > 2 * calls[1]


def test_files_of_other_content_are_known() -> None:
    good = {"fetches": np.array([USUAL] * len(SIZES)), "huge": np.array([1])}
    assert are_fetches(good)
    for change in (
        {"fetches": good["fetches"][:2]},
        {"fetches": good["fetches"].astype(np.float64)},
        {"fetches": good["fetches"] + 1},
        {"huge": np.array([2])},
        {"huge": np.array([1, 0])},
        {"huge": np.array([True])},
    ):
        assert not are_fetches(good | change)
    assert not are_fetches({"fetches": good["fetches"]})
    assert not are_fetches({})


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NativeTarget:
    monkeypatch.setattr(native, "LEAST_BYTES", 0)
    return gguf_target(tmp_path, "llama", "Q4_1", threads=2)


def logits(target: NativeTarget) -> list[bytes]:
    rows, first = opened(target, [[5, 6, 7, 8, 9, 10]])
    found = [first.logits(0, [0]).tobytes()]
    for size in (1, 2, 5, 16, 20):
        scores = target.score(on(rows, [TokenTree.chain(1, list(range(2, size + 1)))]))
        found.append(scores.logits(0, list(range(size))).tobytes())
    target.free(rows)
    return found


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("kind", ["Q4_1", "Q5_0", "F16"])
def test_no_way_changes_a_bit(isa: str, kind: str, tmp_path: Path) -> None:
    with instruction_set(isa):
        target = gguf_target(tmp_path, "llama", kind, threads=2)
    expected = logits(target)
    for level, num_bytes, tiles in itertools.product((0, 1, 2), (0, 64, 1 << 20), (1, 2, 4)):
        target._decoder.set_fetch(1, level, num_bytes, tiles)
        assert logits(target) == expected
    target._decoder.set_weights(copied(target.weights.buffer))
    assert logits(target) == expected


def test_measured_once_and_kept(
    target: NativeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, times = logits(target), []
    real = fetching.measured
    monkeypatch.setattr(native, "measured", lambda *ways: times.append(1) or real(*ways))
    memo = Memo(tmp_path / "model.outpace")
    target.tune(memo)
    target.tune(memo)
    assert len(times) == 1
    (path,) = tmp_path.glob("model.fetches-*.npz")
    assert target.isa in path.name
    path.write_bytes(b"damaged")
    target.tune(memo)
    assert len(times) == 2
    monkeypatch.setattr(native, "processor_key", lambda: "another")  # a cache that machines share
    target.tune(memo)
    assert len(times) == 3
    assert logits(target) == expected
    assert target._decoder.cache_bytes == 0


@pytest.mark.parametrize("choice", ["huge", "mapped"])
def test_the_environment_decides_about_memory(
    choice: str, target: NativeTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []
    monkeypatch.setattr(native, "copied", lambda data: copies.append(1) or copied(data))
    monkeypatch.setenv("OUTPACE_MEMORY", choice)
    expected = logits(target)
    target.tune(Memo(tmp_path / "model.outpace"))
    assert len(copies) == (choice == "huge")
    assert logits(target) == expected
    monkeypatch.setenv("OUTPACE_MEMORY", "elsewhere")
    with pytest.raises(OutpaceError, match="accepted are huge, mapped"):
        target.tune(Memo(tmp_path / "model.outpace"))


def test_small_models_are_left_alone(tmp_path: Path) -> None:
    target = gguf_target(tmp_path, "llama", "Q4_1")
    target.tune(Memo(tmp_path / "model.outpace"))
    assert not list(tmp_path.glob("model.*"))


def test_refusals(target: NativeTarget) -> None:
    for values in ((0, 1, 0, 1), (1, 3, 0, 1), (1, -1, 0, 1), (1, 1, -1, 1), (1, 1, 2**21, 1), (1, 1, 0, 3)):
        with pytest.raises(ValueError, match="accepted are tokens from 1, levels 0, 1 and 2"):
            target._decoder.set_fetch(*values)
    buffer = target.weights.buffer
    for other in (buffer[:-64], copied(np.concatenate([buffer, buffer]))[1 : len(buffer) + 1]):
        with pytest.raises(ValueError, match="a copy of the first ones"):
            target._decoder.set_weights(other)
    assert _native.multiply_add_rate(2, True) > 0
    assert _native.multiply_add_rate(1, False) > 0
