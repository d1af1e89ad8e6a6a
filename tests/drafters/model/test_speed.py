"""What speed chooses while texts are written, by simulated times of passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.drafters.model.speed import Speed
from outpace.engine.engine import Engine
from outpace.engine.request import Request
from outpace.rules.match import Match
from tests.contract.rows import make_drafter, native_looped
from tests.looped_table import TimedTable

LOOPS = 4
CHOICES = [some for size in (0, 1, 2) for some in combinations(range(1, LOOPS), size)]
COSTS: dict[str, Callable[[int], float]] = {
    "flat": lambda size: 1.0,
    "ours": lambda size: 1 + 0.07 * (size - 1),
    "steep": lambda size: 0.4 + 0.6 * size,
    "cliff": lambda size: 1.0 + 0.3 * max(0, size - 4),
}


def table(agreement: float, cost: str = "flat") -> TimedTable:
    made = TimedTable.of(LOOPS, agreement, vocab_size=9, order=3, seed=3, context_length=800)
    assert isinstance(made, TimedTable)
    made.cost = COSTS[cost]  # type: ignore[assignment]
    return made


def write(target: TimedTable, drafter: Any, num_rows: int, num_tokens: int) -> None:
    engine = Engine(target, drafter, Match())
    for row in range(num_rows):
        engine.add(Request([row, 2], Sampling(temperature=0.7, seed=row), num_tokens))
    while engine.busy:
        engine.step()


@cache
def sizes(agreement: float, num_rows: int, guesses: Sequence[int]) -> list[int]:
    """The nodes of every pass while the rows write 150 tokens each, with these guesses."""
    if not guesses:
        return [num_rows] * (LOOPS * 150)
    target, (early, second, *_) = table(agreement), (*guesses, 0)
    write(target, Speed(early=early, second=second, target=target), num_rows, 150)
    return target.sizes


@pytest.mark.parametrize("num_rows", [1, 4])
@pytest.mark.parametrize("agreement", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("cost", COSTS)
def test_the_plan_is_close_to_the_best_of_a_sweep(
    num_rows: int, agreement: float, cost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked at so many outputs that chance hardly matters."""
    monkeypatch.setattr("outpace.drafters.model.speed.LOOKED", 200)
    target = table(agreement, cost)
    monkeypatch.setattr("outpace.decode.pipelined.perf_counter", lambda: target.now)
    drafter = Speed(target=target)
    write(target, drafter, num_rows, 240)
    took = {some: sum(map(COSTS[cost], sizes(agreement, num_rows, some))) for some in CHOICES}
    assert took[tuple(drafter.guesses(num_rows))] <= 1.05 * min(took.values())


def test_few_rows_and_many_have_plans_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four nodes are free and others dear: one row fills a pass with guesses, four rows do without."""
    target = table(0.9, "cliff")
    target.cost = lambda size: 1.0 + max(0, size - 4)
    monkeypatch.setattr("outpace.decode.pipelined.perf_counter", lambda: target.now)
    drafter = Speed(target=target)
    write(target, drafter, 4, 100)
    assert drafter.guesses(4) == ()
    assert 1 in drafter.guesses(1)


def test_prompts_that_others_read_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are calls of their own, however long those take."""
    target = table(0.9, "ours")
    monkeypatch.setattr("outpace.decode.pipelined.perf_counter", lambda: target.now)
    drafter = Speed(target=target)
    engine = Engine(target, drafter, Match())
    started = [engine.add(Request([0, 2], Sampling(), 300))]
    while engine.busy:
        if len(started) < 40:
            started.append(engine.add(Request([len(started) % 9, 2], Sampling(), 4)))
        engine.step()
    for size in (1, 2, 4):
        assert drafter._passes.at(float(size)) == pytest.approx(COSTS["ours"](size), rel=0.2)


@pytest.mark.parametrize("draft", ["early_exit", "layer_skip", "swift", "mix:drafts=ngram+early_exit"])
def test_what_needs_whole_calls_does_not_draft_beside_guesses(draft: str, tmp_path: Path) -> None:
    """It would run the target on rows that have tokens under way."""
    target = native_looped(tmp_path)
    with pytest.raises(OutpaceError, match=r"speed has draft=\w+, accepted are .* such as ngram"):
        make_drafter(f"speed:early=1,draft=[{draft}]", target)
    with pytest.raises(OutpaceError, match=r"accepted are .* such as ngram"):
        make_drafter("speed:draft=[blockwise:path=HEADS]", target)
