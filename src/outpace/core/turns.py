"""Threads that use one object take turns: a fair, reentrant lock that forgets lost threads in a fork.

A target, and a drafter that several requests share, see one step at a time, whichever thread runs it; so
answers do not depend on who else asks. Whoever waits longest is next: a request that steps in a loop cannot
keep the others out, as it would with `threading.Lock`.

An exception that comes from outside (Ctrl-C, a time limit) can strike in the few instructions that take a
turn or give it back. Who waits long therefore looks whether the turn is still under way: whether its frame is
in a stack.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import FrameType, TracebackType

from outpace.core.beside import Beside

PATIENCE_S = 0.5
LOOKS = 3
"""A turn is lost when so many looks in a row, at such distances, do not find it in its thread."""


class Turns:
    """A first-come-first-served lock, to be held by `with` alone; its thread may enter it again.

    `soon(job)` is for what an object's finaliser has to do: the garbage collector may call one in any thread,
    in the midst of that thread's own turn too.
    """

    def __init__(self) -> None:
        self._inner = threading.Lock()  # held for a few instructions, never while waiting
        self._queue: deque[tuple[int, threading.Lock, int]] = deque()
        self._owner = 0  # identity of a thread, 0: nobody
        self._depth = 0
        self._held_in = 0  # id of the frame whose `with` this is
        self._number = 0  # of the turn
        self._jobs: deque[Callable[[], None]] = deque()
        _EVERY.add(self)

    def __enter__(self) -> None:
        me = threading.get_ident()
        frame = sys._getframe(1)
        if self._owner == me:  # nobody else can make this true, or untrue
            if _is_under(self._held_in, frame):
                self._depth += 1
            else:  # lost
                self._begin(me, id(frame))
            return
        waiting = None
        with self._inner:
            if not self._owner:
                self._begin(me, id(frame))
            else:
                waiting = (me, threading.Lock(), id(frame))
                waiting[1].acquire()
                self._queue.append(waiting)
        if waiting is not None:
            self._wait(waiting)
        if self._jobs:
            try:
                self._run_jobs()
            except BaseException:
                self._pass_on()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._owner == threading.get_ident(), "a turn is given back by the thread that has it"
        self._depth -= 1
        if not self._depth:
            self._end()

    def soon(self, job: Callable[[], None]) -> None:
        """Run a job in a turn: now if nobody has it, else before the next begins or this one ends."""
        self._jobs.append(job)
        if self._inner.acquire(blocking=False):  # whoever is in there has a turn before it, or just behind it
            if free := not self._owner:
                self._begin(threading.get_ident(), id(sys._getframe()))
            self._inner.release()
            if free:
                self._end()

    def _begin(self, owner: int, held_in: int) -> None:
        self._owner, self._depth, self._held_in = owner, 1, held_in
        self._number += 1

    def _wait(self, waiting: tuple[int, threading.Lock, int]) -> None:
        me, call, held_in = waiting
        number, looks = -1, 0
        try:
            while not call.acquire(timeout=PATIENCE_S):
                looks = looks + 1 if number == self._number and self._is_lost(me) else 0
                number = self._number
                if looks < LOOKS:
                    continue
                with self._inner:
                    if number == self._number:
                        if waiting in self._queue:
                            self._queue.remove(waiting)
                        self._begin(me, held_in)
                        return
        except BaseException:  # Ctrl-C
            with self._inner:
                called = self._owner == me
                if waiting in self._queue:
                    self._queue.remove(waiting)
            if called:
                self._pass_on()
            raise

    def _is_lost(self, me: int) -> bool:
        """Whether nobody is in the turn, as far as one look tells: a stack may change under it."""
        if self._owner == me:  # handed on, but nobody called
            return True
        return not _is_under(self._held_in, sys._current_frames().get(self._owner))

    def _end(self) -> None:
        try:
            self._run_jobs()
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        with self._inner:
            call = None
            self._owner = self._depth = 0
            if self._queue:
                owner, call, held_in = self._queue.popleft()
                self._begin(owner, held_in)
        if call is not None:
            call.release()

    def _run_jobs(self) -> None:
        while self._jobs:
            self._jobs.popleft()()

    def _forget_others(self) -> None:
        self._inner = threading.Lock()
        self._queue.clear()
        if self._owner != threading.get_ident():
            self._owner = self._depth = 0


def _is_under(held_in: int, frame: FrameType | None) -> bool:
    """Whether a frame, by its id, is this one or one that has called it."""
    while frame is not None and id(frame) != held_in:
        frame = frame.f_back
    return frame is not None


_EVERY: weakref.WeakSet[Turns] = weakref.WeakSet()
_TURNS = Beside(lambda shared: Turns())


def turns_of(shared: object) -> Turns:
    """The turns of an object."""
    return _TURNS.of(shared)


def _after_fork() -> None:
    # The threads that had or awaited a turn are not in the child.
    for turns in list(_EVERY):
        turns._forget_others()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
