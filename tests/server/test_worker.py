"""The worker's thread: places, ends, and a step that fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from outpace.core.call import Call
from outpace.core.sampling import Sampling
from outpace.drafters.none import NoDraft
from outpace.engine.engine import Engine, Event
from outpace.engine.request import Generation, Request
from outpace.rules.match import Match
from outpace.server.worker import Busy, Closing, Ticket, TimedOut, Update, Worker
from outpace.targets.table import TableTarget


class Counted:
    """What a worker tells its watches."""

    def __init__(self) -> None:
        self.steps = 0
        self.results: list[Generation | None] = []

    def stepped(self, events: Sequence[Event]) -> None:
        self.steps += 1

    def ended(self, ticket: Ticket, result: Generation | None) -> None:
        self.results.append(result)


class Held(TableTarget):
    """Scores when it may."""

    may: threading.Event
    fails: bool = False

    def score(self, calls: Sequence[Call]) -> Any:
        assert self.may.wait(30)
        if self.fails:
            raise ZeroDivisionError("a bug")
        return super().score(calls)


def held() -> Held:
    target = Held.random(vocab_size=11, seed=1, spread=2.0, context_length=64)
    target.may = threading.Event()
    return target


class Heard:
    """A ticket and what its listener has heard."""

    def __init__(self, *, most: int = 8, deadline: float | None = None) -> None:
        self.updates: list[Update] = []
        self.over = threading.Event()
        request = Request([1, 2, 3], Sampling(temperature=1.0, seed=4), most, eos_ids=frozenset())
        self.ticket = Ticket(request, None, self.tell, deadline)

    def tell(self, update: Update) -> None:
        self.updates.append(update)
        if update.is_last:
            self.over.set()

    def tokens(self) -> list[int]:
        assert self.over.wait(30)
        return [token for update in self.updates for token in update.tokens]


def worker_of(target: TableTarget, watch: Counted, places: int = 4) -> Worker:
    return Worker(lambda: Engine(target, NoDraft(), Match()), places=places, watches=[watch])


def test_requests_get_their_tokens_and_give_their_places_back() -> None:
    target, watch = held(), Counted()
    worker = worker_of(target, watch)
    one, other = Heard(), Heard(most=3)
    worker.submit([one.ticket, other.ticket])
    assert worker.num_here == 2
    target.may.set()
    assert one.tokens()[:3] == other.tokens()
    result = one.updates[-1].result
    assert result is not None and result.token_ids == one.tokens()
    assert one.ticket.first is not None and one.ticket.first >= one.ticket.came
    assert worker.num_here == 0 and len(watch.results) == 2 and watch.steps == 8
    worker.close()


def test_there_are_so_many_places() -> None:
    target, watch = held(), Counted()
    worker = worker_of(target, watch, places=2)
    one, other = Heard(), Heard()
    worker.submit([one.ticket])
    with pytest.raises(Busy, match="all 2 places"):
        worker.submit([Heard().ticket, Heard().ticket])
    worker.submit([other.ticket])
    target.may.set()
    assert len(one.tokens()) == len(other.tokens()) == 8
    worker.submit([(again := Heard()).ticket])
    assert again.tokens() == one.tokens()
    worker.close()


def test_a_cancelled_request_is_heard_of_no_more() -> None:
    target, watch = held(), Counted()
    worker = worker_of(target, watch)
    gone, stays = Heard(), Heard()
    worker.submit([gone.ticket, stays.ticket])
    worker.cancel(gone.ticket)
    target.may.set()
    assert len(stays.tokens()) == 8
    worker.cancel(stays.ticket)  # it has left
    worker.close()
    assert not gone.over.is_set() and len(gone.updates) <= 1
    assert sorted(watch.results, key=lambda one: one is None)[-1] is None and len(watch.results) == 2


def test_a_request_whose_time_is_over_leaves() -> None:
    target, watch = held(), Counted()
    target.may.set()
    worker = worker_of(target, watch)
    late, timely = Heard(deadline=0.0), Heard()
    worker.submit([late.ticket, timely.ticket])
    assert len(timely.tokens()) == 8
    assert late.tokens() == [] and isinstance(late.updates[-1].error, TimedOut)
    worker.close()


def test_closing_ends_all() -> None:
    target, watch = held(), Counted()
    worker = worker_of(target, watch)
    one = Heard(most=50)
    worker.submit([one.ticket])
    target.may.set()
    worker.close()
    assert one.over.wait(30)
    last = one.updates[-1]
    assert isinstance(last.error, Closing) or last.result is not None
    with pytest.raises(Closing):
        worker.submit([Heard().ticket])
    assert not worker.is_open


def test_a_bug_takes_what_is_under_way_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    target, watch = held(), Counted()
    worker = worker_of(target, watch)
    target.fails = True
    one = Heard()
    worker.submit([one.ticket])
    target.may.set()
    assert one.tokens() == [] and isinstance(one.updates[-1].error, ZeroDivisionError)
    target.fails = False
    worker.submit([(again := Heard()).ticket])
    assert len(again.tokens()) == 8 and worker.num_here == 0
    worker.close()


def test_a_request_that_cannot_be_served_hears_why() -> None:
    target, watch = held(), Counted()
    target.may.set()
    worker = worker_of(target, watch)
    wrong = Heard()
    wrong.ticket.request = Request([99], max_tokens=3)
    worker.submit([wrong.ticket, (fine := Heard()).ticket])
    assert len(fine.tokens()) == 8
    assert wrong.tokens() == [] and "token ids outside" in str(wrong.updates[-1].error)
    assert worker.num_here == 0
    worker.close()
