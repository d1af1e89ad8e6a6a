"""Values that belong to objects of others: the same for everybody who asks, as long as the object lives."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class Beside(Generic[Value]):
    """A value for each object, made when it is first asked for. Objects that are equal are not the same."""

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self._make = make
        self._values: dict[int, tuple[Callable[[], Any], Value]] = {}
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def of(self, shared: Any) -> Value:
        """The object's value."""
        key = id(shared)
        found = self._values.get(key)
        if found is None or found[0]() is not shared:
            with self._lock:
                found = self._values.get(key)
                if found is None or found[0]() is not shared:
                    found = self._values[key] = (self._reference(shared, key), self._make(shared))
        return found[1]

    def _reference(self, shared: Any, key: int) -> Callable[[], Any]:
        try:
            return weakref.ref(shared, lambda gone: self._drop(key, gone))
        except TypeError:  # a class with slots: its objects stay, so that their numbers are not used again
            return lambda: shared

    def _drop(self, key: int, gone: weakref.ref[Any]) -> None:
        found = self._values.get(key)
        if found is not None and found[0] is gone:
            self._values.pop(key, None)

    def _renew(self) -> None:
        self._lock = threading.Lock()  # who held it is not in the child
