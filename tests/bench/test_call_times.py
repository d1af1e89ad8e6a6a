"""Timing of blocks: which calls are made, not how long they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from outpace.bench.call_times import CALLS_PER_TURN, call_times, sampling_cost
from outpace.core.call import Call
from outpace.core.errors import OutpaceError
from outpace.targets.table import TableScores, TableTarget


class Counting(TableTarget):
    """A table that notes the size of every scored tree and where its root was."""

    scored: list[tuple[int, int]]

    def score(self, calls: Sequence[Call]) -> TableScores:
        size = calls[0].lead + calls[0].tree.num_nodes, self.length(calls[0].row)
        if size[1]:  # the first reads the context
            self.scored = [*getattr(self, "scored", []), size]
        return super().score(calls)


def test_every_size_in_every_round_after_the_same_context() -> None:
    target = Counting.random(context_length=64)
    rounds: list[int] = []
    times = call_times(target, sizes=[1, 4, 16], context=40, repeats=3, on_round=lambda: rounds.append(1))
    turn = [(size, 40) for size in (1, 4, 16) for _ in range(CALLS_PER_TURN)]
    assert target.scored == turn * 3
    assert len(rounds) == 3
    assert [time.num_tokens for time in times] == [1, 4, 16]
    assert all(time.latency_ms > 0 for time in times)


def test_greedy_and_sampled_calls_take_turns() -> None:
    target = Counting.random(context_length=64)
    assert sampling_cost(target, context=12, repeats=5) > 0
    assert target.scored == [(1, 12)] * 10


def test_the_row_is_given_back() -> None:
    target = TableTarget.random(context_length=64)
    call_times(target, sizes=[2], context=8, repeats=1)
    with pytest.raises((KeyError, ValueError, AssertionError)):
        target.length(0)
    sampling_cost(target, context=8, repeats=1)
    with pytest.raises((KeyError, ValueError, AssertionError)):
        target.length(0)


@pytest.mark.parametrize("options", [{"context": 60}, {"sizes": [0, 1]}, {"repeats": 0}])
def test_what_cannot_be_timed(options: dict[str, Any]) -> None:
    request: dict[str, Any] = {"sizes": [1, 8], "context": 8, "repeats": 1} | options
    with pytest.raises(OutpaceError):
        call_times(TableTarget.random(context_length=64), **request)
