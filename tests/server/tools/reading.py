"""What a reader says of a text that comes in any pieces, put together."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from outpace.server.tools.deltas import Arguments, CallBegins, Content, Delta
from outpace.server.tools.formats import FORMATS
from outpace.server.tools.reader import Reader

KINDS = {kind.name: kind() for kind in FORMATS}
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "where": {"type": "object"},
        "tags": {"type": "array"},
        "unit": {"enum": ["C", "F"]},
        "note": {"type": ["string", "null"]},
        "any": {},
        "point": {"$ref": "#/$defs/point"},
    },
    "required": ["city"],
    "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}}},
}
SCHEMAS: dict[str, Mapping[str, Any]] = {"weather": WEATHER, "get-time": {"type": "object"}}


@dataclass
class Said:
    """The sum of deltas. `calls`: names and the JSON text of their arguments."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def add(self, delta: Delta) -> None:
        """Checks that deltas of calls come in their order, and only to the last call."""
        if isinstance(delta, Content):
            assert delta.text
            self.content += delta.text
        elif isinstance(delta, CallBegins):
            assert delta.index == len(self.calls) and delta.id == f"id{delta.index}"
            self.calls.append((delta.name, ""))
        else:
            assert isinstance(delta, Arguments) and delta.text and delta.index == len(self.calls) - 1
            name, text = self.calls[-1]
            self.calls[-1] = (name, text + delta.text)


def reader_of(kind: str, **options: Any) -> Reader:
    numbers = itertools.count()
    return KINDS[kind].reader(options.pop("schemas", SCHEMAS), new_id=lambda: f"id{next(numbers)}", **options)


def summed(reader: Reader, pieces: Iterable[str]) -> Said:
    said = Said()
    for piece in pieces:
        for delta in reader.push(piece):
            said.add(delta)
    for delta in reader.finish():
        said.add(delta)
    assert reader.finish() == [] and reader.num_calls == len(said.calls)
    return said


def read(kind: str, text: str, **options: Any) -> Said:
    """Letter by letter, and at once: that both are the same is checked."""
    said = summed(reader_of(kind, **options), text)
    assert summed(reader_of(kind, **options), [text]) == said
    return said
