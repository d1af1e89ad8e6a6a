"""Names to objects: `name:key=value,key=value` makes a drafter, rule or target, imported when asked for.

A registry is a literal table of lazy paths plus an entry-point group, so nothing is imported to be listed.
An object's options are its constructor's keyword-only parameters that hold an int, float, bool or str; all
else that a constructor needs (a target, a tokenizer) comes from the caller as context, by name; a constructor
that makes other objects takes all of it as `context`.

Specs nest: a value in square brackets is one text, whatever stands in it, and `a+[b:x=1,y=2]` is a list of
two specs (`split_specs`).
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Union, get_args, get_origin

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, shown

_ACCEPTED = {bool: "true, false", int: "whole numbers", float: "numbers", str: "texts"}
_BOOLS = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}


class Registry:
    """The names of one kind of thing.

    kind    what an error message calls it: "drafter".
    table   name -> "module:attribute".
    group   entry-point group in which other packages add names; a name of the table wins.
    """

    def __init__(self, kind: str, table: Mapping[str, str], group: str) -> None:
        self.kind = kind
        self._table = dict(table)
        self._group = group

    def names(self) -> list[str]:
        """All names, those of other packages included, sorted."""
        return sorted({*self._table, *self.plugins()})

    def plugins(self) -> list[str]:
        """The names that other packages have added."""
        return sorted({point.name for point in entry_points(group=self._group)} - set(self._table))

    def factory(self, name: str) -> Callable[..., Any]:
        """The class or function behind a name.

        An OutpaceError lists the names where this one is unknown, and says what went wrong where it cannot be
        imported: its package may be broken, or a library that it needs missing.
        """
        # Installed packages are searched only for a name that is not ours.
        points = [] if name in self._table else list(entry_points(group=self._group, name=name))
        if name not in self._table and not points:
            raise OutpaceError(f"unknown {self.kind} {name!r}, accepted are {', '.join(self.names())}")
        try:
            if points:
                return points[0].load()
            module, _, attribute = self._table[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise OutpaceError(f"the {self.kind} {name!r} cannot be loaded: {what}") from error

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """The options of a name, each with its type (`annotation`) and default."""
        try:
            parameters = inspect.signature(self.factory(name), eval_str=True).parameters.values()
        except (NameError, TypeError) as error:
            raise OutpaceError(
                f"the {self.kind} {name!r} has options that cannot be read: {error}"
            ) from error
        return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and _option_type(p.annotation)}

    def parse(self, spec: str) -> tuple[str, dict[str, Any]]:
        """`ngram:max_n=3,length=6` -> ("ngram", {"max_n": 3, "length": 6})."""
        name, _, rest = spec.partition(":")
        name, given = name.strip(), {}
        accepted = self.options(name)
        for item in filter(None, (part.strip() for part in _split(rest, ","))):
            key, equals, text = (part.strip() for part in item.partition("="))
            if not equals:
                raise OutpaceError(f"{self.kind} option {item!r} is not of the form key=value")
            if key not in accepted:
                names = ", ".join(accepted) or "none"
                raise OutpaceError(f"{self.kind} {name!r} has no option {key!r}, accepted are {names}")
            if key in given:
                raise OutpaceError(f"{self.kind} {name!r} has {key} twice, accepted is once")
            given[key] = self._value(name, key, text, accepted[key].annotation)
        missing = [key for key, p in accepted.items() if p.default is p.empty and key not in given]
        if missing:
            raise OutpaceError(f"{self.kind} {name!r} needs {', '.join(f'{key}=...' for key in missing)}")
        return name, given

    def create(self, spec: str, **context: Any) -> Any:
        """The object that a spec describes. Of `context`, it gets what its constructor names."""
        name, options = self.parse(spec)
        factory = self.factory(name)
        accepted = inspect.signature(factory).parameters
        named = {**context, "context": context}
        return factory(**options, **{key: value for key, value in named.items() if key in accepted})

    def _value(self, name: str, key: str, text: str, annotation: Any) -> Any:
        kind, optional = _option_type(annotation), type(None) in get_args(annotation)
        if optional and text.lower() == "none":
            return None
        try:
            value = _BOOLS[text.lower()] if kind is bool else kind(_bare(text) if kind is str else text)
            return accept(key, value, kind)
        except (ValueError, KeyError):
            accepted = _ACCEPTED[kind] + (", none" if optional else "")
            raise OutpaceError(
                f"{self.kind} {name!r} has {key}={shown(text)}, accepted are {accepted}"
            ) from None


def split_specs(text: str) -> list[str]:
    """`a+[b:x=1,y=2]` -> ["a", "b:x=1,y=2"]."""
    return [_bare(part.strip()) for part in _split(text, "+")]


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that stand in no brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "[") - (character == "]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth:
        raise OutpaceError(f"{text!r} has a square bracket without its partner")
    return parts


def _bare(text: str) -> str:
    """Without the brackets that hold all of it: those of `[a]`, not those of `[a]+[b]`."""
    if text.startswith("[") and text.endswith("]") and _matched(text):
        return text[1:-1]
    return text


def _matched(text: str) -> bool:
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if depth == 0:
            return index == len(text) - 1
    return False


def value_text(value: Any) -> str:
    """An option's value as a spec writes it."""
    text = str(value).lower() if isinstance(value, bool) or value is None else str(value)
    return f"[{text}]" if isinstance(value, str) and set(",+[]") & set(text) else text


def _option_type(annotation: Any) -> Any:
    """int, float, bool or str where an annotation is that or that or None; else None."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else None
    return annotation if annotation in _ACCEPTED else None
