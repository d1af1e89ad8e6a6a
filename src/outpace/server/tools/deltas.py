"""What a reader says while a text comes: pieces of content, and calls that begin and grow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Content:
    """Text for people."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """Call number `index` (from 0) of the function `name`, under an id that nobody else has."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """JSON text by which the arguments of call number `index` grow; of a whole call the sum is an object."""

    index: int
    text: str


Delta = Content | CallBegins | Arguments


def merged(deltas: Iterable[Delta]) -> list[Delta]:
    """The same deltas, those that follow each other in one content or one call put together."""
    found: list[Delta] = []
    for (kind, index), group in groupby(deltas, lambda delta: (type(delta), getattr(delta, "index", None))):
        if kind is CallBegins:
            found += group
            continue
        text = "".join(getattr(delta, "text", "") for delta in group)
        found.append(Content(text) if index is None else Arguments(index, text))
    return found
