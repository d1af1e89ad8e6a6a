"""Threads that use one object take turns: a fair, reentrant lock that forgets lost threads in a fork.

A target, and a drafter that several requests share, see one step at a time, whichever thread runs it; so
answers do not depend on who else asks. Whoever waits longest is next: a request that steps in a loop cannot
keep the others out, as it would with `threading.Lock`.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any


class Turns:
    """A first-come-first-served lock, to be held by `with`; its thread may enter it again.

    `soon(job)` is for what an object's finaliser has to do: the garbage collector may call one in any thread,
    in the midst of that thread's own turn too.
    """

    def __init__(self) -> None:
        self._inner = threading.Lock()  # held for a few instructions, never while waiting
        self._queue: deque[tuple[int, threading.Lock]] = deque()
        self._owner = 0  # identity of a thread, 0: nobody
        self._depth = 0
        self._jobs: deque[Callable[[], None]] = deque()
        _EVERY.add(self)

    def __enter__(self) -> None:
        me = threading.get_ident()
        if self._owner == me:  # nobody else can make this true, or untrue
            self._depth += 1
            return
        call = None
        with self._inner:
            if not self._owner:
                self._owner, self._depth = me, 1
            else:
                call = threading.Lock()
                call.acquire()
                self._queue.append((me, call))
        if call is not None:
            self._wait(me, call)
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
                self._owner = threading.get_ident()
            self._inner.release()
            if free:
                self._end()

    def _wait(self, me: int, call: threading.Lock) -> None:
        try:
            call.acquire()
        except BaseException:  # Ctrl-C
            with self._inner:
                called = self._owner == me
                if not called:
                    self._queue.remove((me, call))
            if called:
                self._pass_on()
            raise

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
                self._owner, call = self._queue.popleft()
                self._depth = 1
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


_EVERY: weakref.WeakSet[Turns] = weakref.WeakSet()
_TURNS: dict[int, tuple[Callable[[], Any], Turns]] = {}
_LOCK = threading.Lock()


def turns_of(shared: object) -> Turns:
    """The turns of an object: the same for everybody who asks, as long as the object lives."""
    key = id(shared)
    found = _TURNS.get(key)
    if found is None or found[0]() is not shared:
        with _LOCK:
            found = _TURNS.get(key)
            if found is None or found[0]() is not shared:
                found = _TURNS[key] = (_reference(shared, key), Turns())
    return found[1]


def _reference(shared: Any, key: int) -> Callable[[], Any]:
    try:
        return weakref.ref(shared, lambda gone: _drop(key, gone))
    except TypeError:  # a class with slots: its objects stay, so that their numbers are not used again
        return lambda: shared


def _drop(key: int, gone: weakref.ref[Any]) -> None:
    found = _TURNS.get(key)
    if found is not None and found[0] is gone:
        _TURNS.pop(key, None)


def _after_fork() -> None:
    # The threads that had or awaited a turn are not in the child.
    global _LOCK
    _LOCK = threading.Lock()
    for turns in list(_EVERY):
        turns._forget_others()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
