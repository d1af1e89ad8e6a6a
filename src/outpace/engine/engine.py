"""The engine: requests join, run side by side and leave; every step is one call of the target.

    add      a request joins with the next step
    step     rows that have read their prompt get a draft; a chunk of the others' prompts is read in the same
             call, short ones first. Each request gets the tokens that it gets alone
    cancel   a request leaves

Requests get rows in order of age. Where the target's cache is full, rows that are only parked (`prefixes.py`)
are given back; then the youngest request gives its row back and waits; when another has ended, it continues
from its tokens. A request that fails does so alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from outpace.core.call import Call, Prompt, Source
from outpace.core.contracts import Drafter, Rule, Target
from outpace.core.errors import CacheFull
from outpace.core.options import whole
from outpace.core.steps import UNTIMED, Step, StepTimes, weakest
from outpace.core.traits import UNBOUNDED
from outpace.core.tree import TokenTree
from outpace.core.turns import Turns, turns_of
from outpace.decode.loops import loop_of
from outpace.decode.pairing import check_pairing
from outpace.engine.output import Output
from outpace.engine.prefixes import Fresh, Held, make_room
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.pricing.clock import now
from outpace.pricing.pace import Pace

FIRST_NODES = 16  # of a row's drafts, for which a call that others read in has a place
PATIENCE = 4  # steps in which a prompt lets shorter ones go first


@dataclass(slots=True, eq=False)
class Job:
    """A request in the engine, and what became of it.

    result  once it has ended. error: what it failed with.
    """

    output: Output
    source: Source | None
    number: int  # by age
    row: int | None = None
    state: Any = None
    started: bool = False  # there is a state
    reads: bool = True  # what is pending is more than its last token
    pending: list[int] = field(default_factory=list)
    passed: int = 0  # steps since something of it was read
    begun: bool = False  # its first tokens are there
    prompt_s: float = 0.0
    wall_s: float = 0.0
    result: Generation | None = None
    error: Exception | None = None


class Event(NamedTuple):
    """What a step added to a request; nothing where it failed.

    tokens  token ids, in the end without those behind the end of the text. text: what became certain.
    tree    what was drafted, behind the last token before. path: the nodes of it that were kept.
    times   of the step, which the rows of its call share; the first one's with the whole prompt's.
    """

    job: Job
    tokens: list[int]
    text: str
    tree: TokenTree
    path: Sequence[int]
    times: StepTimes = UNTIMED

    @property
    def num_drafted(self) -> int:
        """How many drafted tokens the target scored."""
        return self.tree.num_nodes - 1

    @property
    def num_accepted(self) -> int:
        """How many of them became output."""
        return min(len(self.path), len(self.tokens))


class Engine:
    """Runs requests with one target, drafter and rule.

    pace      cuts drafts to the depth that pays; None takes them as they come.
    prefixes  keeps rows for prompts that begin like texts before (`prefixes_of`); None: every row is new.
    most_rows requests that hold rows at once, the others wait in order of age; None: as many as there are.

    Several engines, in one thread or in many, may use one target: they take turns step by step.
    """

    def __init__(
        self,
        target: Target,
        drafter: Drafter,
        rule: Rule,
        *,
        pace: Pace | None = None,
        prefixes: Fresh | None = None,
        most_rows: int | None = None,
    ) -> None:
        check_pairing(target, drafter, rule)
        self._target = target
        self._drafter = drafter
        self._rule = rule
        self._pace = pace
        self._loop = loop_of(target, drafter, rule)
        self._turns = turns_of(target), turns_of(drafter)  # always in this order
        self._added = 0
        self._rows = Fresh(target) if prefixes is None else prefixes
        self._most_rows = UNBOUNDED if most_rows is None else whole("most_rows", most_rows, 1, UNBOUNDED)
        self._running: list[Job] = []  # with a row; those that step go to the end
        self._waiting: list[Job] = []  # without one, by age: all are younger than those that run
        self._full = False  # the cache was: nobody starts before another has ended

    @property
    def busy(self) -> bool:
        """Whether a request has not ended."""
        return bool(self._running or self._waiting)

    @property
    def num_running(self) -> int:
        """Requests that hold a row."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests without one: they have not started, or had to give theirs back."""
        return len(self._waiting)

    def add(self, request: Request, *, text: TextStream | None = None) -> Job:
        """A request joins. Raises an OutpaceError for one that the target cannot serve."""
        request.check(self._target)
        self._added += 1
        job = Job(Output(self._target, request, text), Prompt.of(request.prompt).source, self._added)
        self._waiting.append(job)
        return job

    def cancel(self, job: Job) -> None:
        """A request leaves; nothing happens to one that has ended."""
        for jobs in (self._running, self._waiting):
            if job in jobs:
                jobs.remove(job)
        self._release(job, park=True)

    def close(self) -> None:
        """All leave, and parked rows are given back."""
        for job in [*self._running, *self._waiting]:
            self.cancel(job)
        self._turns[0].soon(self._rows.clear)

    def step(self) -> list[Event]:
        """One call for all that have a place in it; what it added to each."""
        began, events = now(), list[Event]()
        ours, drafts = self._turns
        with ours, drafts:
            self._admit(events)
            ready, parts = self._compose()
            if ready or parts:
                self._run(ready, parts, events, began)
        spent = now() - began
        for job in [*self._running, *self._waiting]:
            job.wall_s += spent
        return events

    def _admit(self, events: list[Event]) -> None:
        if self._full and self._running:
            return
        self._full = False
        while self._waiting and len(self._running) < self._most_rows:
            job = self._waiting[0]
            self._running.append(job)
            del self._waiting[0]
            try:
                self._start(job)
            except Exception as error:
                self._fail(job, error, events)

    def _start(self, job: Job) -> None:
        prompt = Prompt(job.output.tokens, job.source)
        running = (
            Held(other.row, other.output.tokens)
            for other in self._running
            if other.row is not None and other.source is None
        )
        job.row, cached = self._rows.begin(prompt, running)
        job.state, job.started = self._drafter.start(prompt), True
        job.pending, job.reads = list(prompt[cached:]), True
        if not job.begun:
            job.output.stats.cached_tokens = cached

    def _compose(self) -> tuple[list[Job], list[tuple[Job, int]]]:
        """The rows that are drafted for, and how many tokens others read of what is pending."""
        traits = self._target.traits
        ready = [job for job in self._running if not job.reads][: traits.max_nodes]
        reading = [job for job in self._running if job.reads]
        if not reading:
            return ready, []
        if traits.chunk == UNBOUNDED:  # prompts are read whole, which nobody else should be padded for
            return reading, []
        reading.sort(key=lambda job: (len(job.pending) if job.passed < PATIENCE else 0, job.number))
        parts = self._places(ready, reading)
        placed = {*ready, *(job for job, _ in parts)}
        for job in reading:
            job.passed = 0 if job in placed else job.passed + 1
        return ready, parts

    def _places(self, ready: list[Job], reading: Sequence[Job]) -> list[tuple[Job, int]]:
        """Who of those that read can be read to the end joins `ready`; returns what is read of another one.

        All of it is a chunk at most: more at once takes no less time for each token, and everybody waits.
        """
        traits = self._target.traits
        room, most = traits.max_nodes - len(ready) * (1 + FIRST_NODES), traits.chunk
        for job in reading:
            size = len(job.pending)
            if size <= most and size + FIRST_NODES <= room:
                ready.append(job)
                room, most = room - size - FIRST_NODES, most - size
                continue
            # Of the last part drafters see the states: it is a whole one.
            last = min(traits.chunk, traits.max_nodes - len(ready) * (1 + FIRST_NODES) - FIRST_NODES)
            part = min(size - max(1, last), most, room)
            if part < 1 and not ready:  # a call too small for drafts
                ready.append(job)
                return []
            return [(job, part)] if part > 0 else []
        return []

    def _run(
        self, ready: Sequence[Job], parts: Sequence[tuple[Job, int]], events: list[Event], began: float
    ) -> None:
        jobs = [*ready, *(job for job, _ in parts)]
        try:
            steps, times = self._step(ready, parts)
        except CacheFull as error:
            if not make_room(self._target, self._size(ready, parts)):
                self._hold(error, events)
            return
        except Exception as error:
            for job in jobs:
                # Alone, it fails or not; what was committed without its drafter hearing of it cannot go on.
                length = len(job.output.tokens) - len(job.pending)
                if len(jobs) == 1 or self._target.length(_row(job)) != length:
                    self._fail(job, error, events)
            for job in ready if len(jobs) > 1 else ():
                if job.row is not None:  # nor has failed, nor has to wait
                    self._run([job], [], events, began)
            for job, part in parts if len(jobs) > 1 else ():
                if job.row is not None:
                    self._run([], [(job, part)], events, began)
            return
        for job, part in parts:
            del job.pending[:part]
            job.prompt_s += times.score_s
        for job, one in zip(ready, steps, strict=True):
            if one is None:  # its oldest token is still on its way
                job.output.stats.wait(times)
                continue
            try:
                self._take(job, one, times, events, now() - began)
            except Exception as error:  # of a tokenizer
                self._fail(job, error, events)

    def _step(
        self, ready: Sequence[Job], parts: Sequence[tuple[Job, int]]
    ) -> tuple[Sequence[Step | None], StepTimes]:
        traits, rule = self._drafter.traits, self._rule
        used = self._size(ready, parts)
        room = max(0, self._target.traits.max_nodes - used) // max(1, len(ready))
        asks = [
            job.output.ask(
                row=_row(job),
                draw=rule.draw,
                law=rule.needs_law,
                top=traits.reads_top,
                room=room,
                unread=job.pending[:-1],
            )
            for job in ready
        ]
        reading = [Call.read(_row(job), job.pending[:part]) for job, part in parts]
        plan = None
        if self._pace is not None and asks:
            plan = self._pace.plan(asks, lag=sum(job.output.lag for job in ready))
            asks = asks if plan is None else plan.asks
        steps, states, times = self._loop([job.state for job in ready], asks, reading)
        for job, state in zip(ready, states, strict=True):
            job.state = state
        if self._pace is not None and plan is not None:
            if not parts:  # what a call costs that others read in is no price
                self._pace.learn(plan, [one for one in steps if one is not None], times)
            for job, limit in zip(ready, plan.limits, strict=True):
                job.output.drafts(allowed=limit > 0)
        return steps, times

    def _take(self, job: Job, one: Step, times: StepTimes, events: list[Event], spent: float) -> None:
        wall_s = job.wall_s + spent
        times, job.prompt_s = replace(times, score_s=times.score_s + job.prompt_s), 0.0
        if job.begun:
            tokens, text = job.output.take(one, times, wall_s=wall_s)
        else:
            tokens, text = job.output.start(one, times, wall_s=wall_s)
            job.begun = True
        job.pending, job.reads = [one.tokens[-1]], False
        self._running.remove(job)
        if job.output.finish_reason is None:
            self._running.append(job)
        else:
            exactness = weakest(self._target.exactness, self._rule.exactness)
            job.result = job.output.generation(exactness, self._target.traits.numerics)
            self._release(job, park=True)
        events.append(Event(job, tokens, text, *one.drafts, times))

    def _fail(self, job: Job, error: Exception, events: list[Event]) -> None:
        job.error = error
        self._running.remove(job)
        self._release(job)
        events.append(Event(job, [], "", TokenTree.root(job.output.tokens[-1]), ()))

    def _hold(self, error: CacheFull, events: list[Event]) -> None:
        """The youngest gives its row back, and reads all its tokens again later. Alone, it fails."""
        job = max(self._running, key=lambda job: job.number)
        if len(self._running) == 1:
            self._fail(job, error, events)
            return
        self._running.remove(job)
        self._waiting.insert(0, job)
        self._release(job)
        self._full = True
        job.output.starts_anew()

    def _release(self, job: Job, *, park: bool = False) -> None:
        """Its row is given back, or parked with what it has read."""
        end: list[Callable[[], None]] = [partial(self._drafter.stop, job.state)] if job.started else []
        if job.row is not None and park and job.source is None:
            end.append(partial(self._rows.end, job.row, job.output.tokens))
        elif job.row is not None:
            end.append(partial(self._target.free, [job.row]))
        self._full = self._full and job.row is None
        job.row, job.state, job.started = None, None, False
        # The garbage collector may be what ends a request, in the midst of another one's step.
        self._turns[0].soon(partial(_in_turn, self._turns[1], end))

    def _size(self, ready: Sequence[Job], parts: Sequence[tuple[Job, int]]) -> int:
        """How many committed tokens these read in a call."""
        return sum(len(job.pending) for job in ready) + sum(part for _, part in parts)


def _row(job: Job) -> int:
    assert job.row is not None
    return job.row


def _in_turn(turns: Turns, jobs: Sequence[Callable[[], None]]) -> None:
    with turns, ExitStack() as held:
        for job in reversed(jobs):
            held.callback(job)
