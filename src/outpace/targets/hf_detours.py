"""Replacements of modules' `forward` for the time of a call, in the calling thread alone.

Several threads may run a model at once: other targets, its user, `model.generate`. A change that one call
needs (positions, products, a look at hidden states) must not reach the others. So a module's `forward` is
replaced by one that looks up its thread, and after the call nothing is left behind in the model.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

Forward = Callable[..., Any]
Way = Callable[[Forward], Forward]
"""From a module's `forward` to the one that a call takes instead."""

_LOCK = threading.Lock()


class Detour:
    """Stands for a module's `forward` while some thread has replaced it: one for each module."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.attributes = vars(module)
        self.own: Forward | None = None  # somebody else's replacement of `forward`
        self.ways: dict[int, Forward] = {}  # by thread

    def __call__(self, *args: Any, **options: Any) -> Any:
        return (self.ways.get(threading.get_ident()) or self.plain)(*args, **options)

    def plain(self, *args: Any, **options: Any) -> Any:
        """The `forward` of all other threads."""
        if self.own is not None:
            return self.own(*args, **options)
        return type(self.module).forward(self.module, *args, **options)

    def __reduce__(self) -> Any:
        # A copy or a pickle of the module gets its own `forward`.
        return (getattr, (self.module, "forward")) if self.own is None else (_same, (self.own,))

    def open(self) -> None:
        """Stand in for the module's `forward`."""
        self.own = self.attributes.get("forward")
        self.attributes["forward"] = self

    def close(self) -> None:
        """Put back what was there."""
        attributes = self.attributes
        if attributes.get("forward") is self:
            if self.own is None:
                del attributes["forward"]
            else:
                attributes["forward"] = self.own


_DETOURS: WeakValueDictionary[int, Detour] = WeakValueDictionary()  # by the module's id


def detour_of(module: Any) -> Detour:
    """The detour of a module; it is known to everybody as long as somebody holds it."""
    with _LOCK:
        found = _DETOURS.get(id(module))
        if found is None or found.module is not module:
            found = _DETOURS[id(module)] = Detour(module)
        return found


@contextmanager
def replaced(forwards: Iterable[tuple[Detour, Forward]]) -> Iterator[None]:
    """Within, this thread takes these forwards instead of all that the modules have."""
    thread = threading.get_ident()
    # Calls of a small model are short, and it has a hundred layers: these loops do little.
    try:
        with _LOCK:
            for detour, forward in forwards:
                ways = detour.ways
                if not ways:
                    detour.open()
                ways[thread] = forward
        yield
    finally:
        with _LOCK:
            for detour, _ in forwards:
                ways = detour.ways
                ways.pop(thread, None)
                if not ways:
                    detour.close()


@contextmanager
def detours(ways: Iterable[tuple[Any, Way]]) -> Iterator[None]:
    """Within, this thread goes these ways through these modules; a later way sees those before it."""
    thread = threading.get_ident()
    taken: list[tuple[Detour, Forward | None]] = []
    try:
        for module, way in ways:
            detour = detour_of(module)
            with _LOCK:
                if not detour.ways:
                    detour.open()
                before = detour.ways.get(thread)
                detour.ways[thread] = way(before or detour.plain)
                taken.append((detour, before))
        yield
    finally:
        with _LOCK:
            for detour, before in reversed(taken):
                if before is not None:
                    detour.ways[thread] = before
                    continue
                detour.ways.pop(thread, None)
                if not detour.ways:
                    detour.close()


def is_replaced(module: Any) -> bool:
    """Whether somebody else has put a `forward` of theirs into a module."""
    found = vars(module).get("forward")
    return (found.own if isinstance(found, Detour) else found) is not None


def _same(forward: Forward) -> Forward:
    return forward


def _after_fork() -> None:
    # The other threads are not in the child, where their numbers may come back.
    global _LOCK
    _LOCK = threading.Lock()
    for detour in list(_DETOURS.values()):
        for thread in set(detour.ways) - {threading.get_ident()}:
            del detour.ways[thread]
            if not detour.ways:
                detour.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
