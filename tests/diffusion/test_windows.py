"""Windows: the best length by its expected steps, a record that forgets, long or short as drafts deserve."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from outpace.diffusion import Adaptive, Frozen, Independent, Picard, Stale
from outpace.diffusion.windows import Record
from tests.diffusion.rational import STEPS, Rational, run


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def best_length(rate: float, calls: list[float], price: float) -> int:
    """By the expected steps of a round, each outcome weighed by its chance."""
    values = []
    for length in range(1, len(calls) + 1):
        stops = [(kept + 1) * rate**kept * (1 - rate) for kept in range(length)]
        values.append((sum(stops) + length * rate**length) / (calls[length - 1] + price * length))
    return values.index(max(values)) + 1


@pytest.mark.parametrize("price", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("draft", [Frozen(), Stale(), Picard(Frozen())], ids=["frozen", "stale", "picard"])
def test_adaptive_takes_the_best_length(draft: Any, price: float) -> None:
    rates = [0.0, 0.1, 0.37, 0.62, 0.83, 0.91, 0.97]
    record = Record(len(rates), "cpu")
    record.tested, record.kept = torch.ones(len(rates)).double(), torch.tensor(rates, dtype=torch.float64)
    calls = [float(draft.num_calls(length)) for length in range(1, 17)]
    lengths = Adaptive(16, price=price).lengths(record, torch.tensor(calls, dtype=torch.float64)).tolist()
    # Without a price all lengths are as good where nothing is ever accepted.
    pairs = [(rate, length) for rate, length in zip(rates, lengths, strict=True) if rate > 0 or price > 0]
    assert [length for _, length in pairs] == [best_length(rate, calls, price) for rate, _ in pairs]
    assert len(set(lengths)) > (2 if price else 1)


def test_a_record_forgets() -> None:
    record = Record(2, "cpu")
    assert ((record.kept / record.tested) > 0.8).all(), "drafts are believed in at first"
    for _ in range(30):
        record.learn(torch.tensor([1, 8]), torch.tensor([0, 8]))
    bad, good = (record.kept / record.tested).tolist()
    assert bad < 1e-4 and good > 1 - 1e-4
    for _ in range(6):
        record.learn(torch.tensor([8, 1]), torch.tensor([8, 0]))
    bad, good = (record.kept / record.tested).tolist()
    assert bad > 0.9 and good < 0.8, "old rounds count little"
    moved = record.rows(torch.tensor([False, True]), 2)
    assert moved.kept.tolist() == [record.kept[1].item(), *Record(2, "cpu").kept.tolist()]


def test_adaptive_windows_are_long_for_good_drafts_and_short_for_bad_ones() -> None:
    def bad(inputs: torch.Tensor, times: torch.Tensor, numbers: torch.Tensor | None) -> torch.Tensor:
        return Rational()(inputs, times) + 1e4

    window = Adaptive(8)
    good = run(Independent(Rational()), window).stats
    assert good.tested[7] > 0 and good.sequential_calls.max() <= 3
    poor = run(Independent(bad), window).stats
    assert poor.accepted.sum() == 0 and (poor.sequential_calls == STEPS).all()
    fixed = run(Independent(bad), 8).stats
    assert poor.evaluations.sum() < 0.4 * fixed.evaluations.sum(), "little is drafted in vain"
