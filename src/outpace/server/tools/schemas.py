"""What is asked of the JSON schemas of arguments: the types of a part of one, and that part by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SHARED = ("$defs", "definitions")
_MOST_REFERENCES = 16  # that follow each other


def resolved(root: Mapping[str, Any], part: Any) -> Any:
    """A part of the schema `root`, or what it refers to there by `$ref`."""
    for _ in range(_MOST_REFERENCES):
        if not isinstance(part, Mapping) or not isinstance(path := part.get("$ref"), str):
            break
        found: Any = root
        for name in path.removeprefix("#/").split("/"):
            found = found.get(name) if isinstance(found, Mapping) else None
        part = found
    return part


def nested(root: Mapping[str, Any], part: Any) -> Any:
    """A part of the schema `root` that can stand alone: it takes along what `$ref` refers to."""
    shared = {name: root[name] for name in _SHARED if name in root}
    return {**part, **shared} if isinstance(part, Mapping) else part


def types_of(root: Mapping[str, Any], part: Any, depth: int = 0) -> frozenset[str]:
    """The types that a part of the schema `root` allows, as far as it names them; none: all."""
    part = resolved(root, part)
    if not isinstance(part, Mapping) or depth > _MOST_REFERENCES:
        return frozenset()
    if (found := part.get("type")) is not None:
        names = found if isinstance(found, list) else [found]
        return frozenset(name for name in names if isinstance(name, str))
    values = [part["const"]] if "const" in part else part.get("enum")
    if isinstance(values, list):
        return frozenset({"string"}) if values and all(isinstance(v, str) for v in values) else frozenset()
    unions = part.get("anyOf", part.get("oneOf"))
    kinds = [types_of(root, one, depth + 1) for one in unions] if isinstance(unions, list) else []
    return frozenset().union(*kinds) if all(kinds) else frozenset()


def is_text(root: Mapping[str, Any], part: Any) -> bool:
    """Whether a part of the schema `root` allows strings alone."""
    return types_of(root, part) == {"string"}
