"""A thread that steps one engine for requests that come from other threads.

    submit  requests join before the next step; their listeners hear of every step, in the worker's thread
    cancel  a request leaves
    close   all leave, and the thread ends

There are so many places and no more: a full worker refuses. A request whose time is over leaves as it is.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from outpace.core.errors import OutpaceError
from outpace.engine.engine import Engine, Event, Job
from outpace.engine.logprobs import TokenLogprob
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.pricing.clock import now

LOG = logging.getLogger("outpace.server")


class Busy(OutpaceError):
    """All places are taken."""


class Closing(OutpaceError):
    """The server is going down."""


class TimedOut(OutpaceError):
    """A request's time was over before its text."""


@dataclass(frozen=True, slots=True)
class Update:
    """What a step added to a request; in the last one of a request there is a result or an error."""

    tokens: list[int]
    text: str
    logprobs: list[TokenLogprob]
    event: Event | None = None
    result: Generation | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return self.result is not None or self.error is not None


class Watch(Protocol):
    """What counts what a worker does; called in the worker's thread."""

    def stepped(self, events: Sequence[Event]) -> None:
        """A step is over."""

    def ended(self, ticket: Ticket, result: Generation | None) -> None:
        """A request has left: with its whole text, or without."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request at a worker. Times are seconds of `pricing.clock`; first: of its first token, or None."""

    request: Request
    text: TextStream | None
    tell: Callable[[Update], None]
    deadline: float | None
    came: float = field(default_factory=now)
    first: float | None = None
    job: Job | None = None


class Worker:
    """One engine and its thread.

    places  the most requests that are here at once, those that wait included.
    """

    def __init__(self, make_engine: Callable[[], Engine], *, places: int, watches: Sequence[Watch]) -> None:
        self._make_engine = make_engine
        self._engine = make_engine()
        self._places = places
        self._watches = watches
        self._wake = threading.Condition()
        self._inbox: deque[Callable[[], None]] = deque()
        self._tickets: dict[Job, Ticket] = {}
        self._here = 0  # tickets that have not left
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="outpace-worker", daemon=True)
        self._thread.start()

    @property
    def num_here(self) -> int:
        """How many requests have a place."""
        return self._here

    @property
    def num_running(self) -> int:
        """How many of them have a row of the model."""
        return self._engine.num_running

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return not self._closing and self._thread.is_alive()

    def check_room(self, count: int) -> None:
        """Raise Busy or Closing where so many requests find no place."""
        if self._closing:
            raise Closing("the server is going down, accepted are requests to another one")
        if self._here + count > self._places:
            raise Busy(f"all {self._places} places of this model are taken; try again a little later")

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Requests join, all or none. Raises Busy or Closing."""
        with self._wake:
            self.check_room(len(tickets))
            self._here += len(tickets)
            self._inbox += [lambda ticket=ticket: self._add(ticket) for ticket in tickets]  # type: ignore[misc]
            self._wake.notify()

    def cancel(self, ticket: Ticket) -> None:
        """A request leaves, and its listener hears no more of it; nothing happens to one that has left."""
        with self._wake:
            self._inbox.append(lambda: self._leave(ticket))
            self._wake.notify()

    def close(self) -> None:
        """End all that is under way; listeners get a Closing."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _work(self) -> None:
        while not self._closing:
            with self._wake:
                while not (self._inbox or self._engine.busy or self._closing):
                    self._wake.wait()
                todo, self._inbox = self._inbox, deque()
            for one in todo:
                one()
            self._expire()
            if self._engine.busy:
                self._step()
        for one in self._inbox:
            one()
        for ticket in list(self._tickets.values()):
            self._end(ticket, error=Closing("the server is going down"))
        self._engine.close()

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except Exception as error:  # a bug of ours: it takes the answers under way, and nothing else
            LOG.exception("a step failed")
            for ticket in list(self._tickets.values()):
                self._end(ticket, error=error)
            self._engine.close()
            self._engine = self._make_engine()
            return
        for watch in self._watches:
            watch.stepped(events)
        for event in events:
            self._pass_on(self._tickets[event.job], event)

    def _pass_on(self, ticket: Ticket, event: Event) -> None:
        job = event.job
        if job.error is not None:
            self._end(ticket, error=job.error)
            return
        if ticket.first is None:
            ticket.first = now()
        made = job.output.logprobs
        logprobs = made[len(made) - len(event.tokens) :] if made else []
        update = Update(event.tokens, event.text, logprobs, event, job.result)
        if job.result is not None:
            self._leave(ticket, job.result)
        ticket.tell(update)

    def _add(self, ticket: Ticket) -> None:
        try:
            ticket.job = self._engine.add(ticket.request, text=ticket.text)
        except Exception as error:
            self._gone(ticket, None)
            ticket.tell(Update([], "", [], error=error))
            return
        self._tickets[ticket.job] = ticket

    def _expire(self) -> None:
        late = [t for t in self._tickets.values() if t.deadline is not None and now() > t.deadline]
        for ticket in late:
            self._end(ticket, error=TimedOut("the time of the request was over before its text"))

    def _end(self, ticket: Ticket, *, error: Exception) -> None:
        self._leave(ticket)
        ticket.tell(Update([], "", [], error=error))

    def _leave(self, ticket: Ticket, result: Generation | None = None) -> None:
        job = ticket.job
        if job is None or job not in self._tickets:
            return
        del self._tickets[job]
        self._engine.cancel(job)
        self._gone(ticket, result)

    def _gone(self, ticket: Ticket, result: Generation | None) -> None:
        with self._wake:
            self._here -= 1
        for watch in self._watches:
            watch.ended(ticket, result)
