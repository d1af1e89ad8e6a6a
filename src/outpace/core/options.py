"""Options of public calls: types are checked by the annotations, in one line that says what is accepted.

An annotation may be int, float, bool, str, a Path, a Literal, None, a Callable, a Mapping, a Sequence of
these, or a union of them. numpy's numbers become Python's own, whole numbers pass as floats, and bool is no
number. An option that is annotated with anything else (a Drafter, a tensor) is left to its own function.

Options that several calls share are a TypedDict, whose fields are Annotated[kind, default]. A checked
function with `**options: Unpack[Shape]` has them in its signature; `taken` gives them with their defaults.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import reprlib
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, MutableMapping
from collections.abc import Sequence as AnySequence
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    ParamSpec,
    SupportsFloat,
    SupportsIndex,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

from outpace.core.errors import OutpaceError

P = ParamSpec("P")
R = TypeVar("R")
Shape = TypeVar("Shape")

LEAST, MOST = -(2**63), 2**64 - 1  # whole numbers beyond these fit no counter and no seed
MOST_SIZE = 65_536  # of a draft, in any direction: no call scores a fraction of it

_WORDS = {
    bool: "True and False",
    int: "whole numbers",
    float: "numbers",
    str: "texts",
    Path: "paths",
    type(None): "None",
}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: the keyword-only options of a function or constructor have the types that it declares.

    A call with another type raises OutpaceError; an option that does not exist stays a TypeError.
    """
    signature = inspect.signature(function)
    *others, last = signature.parameters.values()
    shared = str(last.annotation).startswith("Unpack[")
    if shared:
        (shape,) = get_args(eval(last.annotation, getattr(function, "__globals__", {})))
        signature = signature.replace(parameters=[*others, *_parameters(shape)])

    @functools.cache
    def declared() -> dict[str, Any]:
        # Not before the first call: what an annotation names may be defined below the function.
        return _annotations(function, signature)

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        kinds = declared()
        for name, value in options.items():
            if name in kinds:
                options[name] = accept(name, value, kinds[name])
            elif shared and name not in signature.parameters:
                raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}")
        return function(*args, **options)

    if shared:
        call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def taken(shape: type[Shape], given: MutableMapping[str, Any]) -> Shape:
    """Takes the options of a TypedDict out of `given`: checked, with defaults for those that are missing."""
    found = {}
    for parameter in _parameters(cast(Hashable, shape)):
        name, kind = parameter.name, parameter.annotation
        value = given.pop(name, parameter.default)
        found[name] = accept(name, value, kind) if all(map(_known, _alternatives(kind))) else value
    return cast(Shape, found)


@functools.cache
def _parameters(shape: Hashable) -> list[inspect.Parameter]:
    """The fields of a TypedDict as keyword-only parameters."""
    fields = get_type_hints(shape, include_extras=True)
    assert all(get_origin(field) is Annotated for field in fields.values())
    return [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in ((name, get_args(field)) for name, field in fields.items())
    ]


def accept(name: str, value: Any, kind: Any) -> Any:
    """`value` as the kind of an option that `kind`, an annotation, declares. Raises OutpaceError."""
    for one in sorted(_alternatives(kind), key=lambda one: one is str):  # a Path is also a text
        found = _taken(value, one)
        if found is not _REFUSED:
            return found
    beyond = isinstance(value, int) and not LEAST <= value <= MOST
    raise OutpaceError(
        f"{name} is {shown(value)}, accepted are {_words(kind)}{' of 64 bits' if beyond else ''}"
    )


def whole(name: str, value: Any, least: int, most: int, *, hint: str = "") -> int:
    """A whole number from `least` to `most`. Raises OutpaceError."""
    found = _taken(value, int)
    if found is _REFUSED or not least <= found <= most:
        raise OutpaceError(
            f"{name} is {shown(value)}, accepted are whole numbers from {least} to {most}{hint}"
        )
    return int(found)


def number(name: str, value: Any, fits: Callable[[float], bool], accepted: str) -> float:
    """A number that `fits`; an OutpaceError says what is `accepted`."""
    found = _taken(value, float)
    if found is _REFUSED or not fits(found):
        raise OutpaceError(f"{name} is {shown(value)}, accepted are {accepted}")
    return float(found)


def within(method: str, least: float, most: float = math.inf, /, **options: float) -> None:
    """Raise an OutpaceError, which names the method, for an option that is not from `least` to `most`."""
    for name, value in options.items():
        if not least <= value <= most:
            numbers = "whole numbers" if isinstance(value, int) else "numbers"
            accepted = f">= {least}" if most == math.inf else f"from {least} to {most}"
            raise OutpaceError(f"{method} has {name}={value}, accepted are {numbers} {accepted}")


def sizes(method: str, /, **options: int) -> None:
    """Raise an OutpaceError for an option that is no size of a draft: 1 to MOST_SIZE."""
    within(method, 1, MOST_SIZE, **options)


def accept_object(name: str, value: Any, methods: AnySequence[str], accepted: str) -> None:
    """Raise OutpaceError for a value without these methods, and for a class in place of what it makes."""
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        raise OutpaceError(f"{name} is {shown(value)}, accepted are {accepted}")


def shown(value: Any) -> str:
    """A value for an error message: one line, and short."""
    try:
        text = "".join(c if c.isprintable() else " " for c in _SHORT.repr(value))
        text = " ".join(text.split())
    except Exception:  # whole numbers of more than 4300 digits have none
        return f"of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


_REFUSED = object()


def _taken(value: Any, kind: Any) -> Any:
    """`value` as one kind, or _REFUSED."""
    origin = get_origin(kind)
    if kind is type(None):
        return None if value is None else _REFUSED
    if kind is bool:
        return bool(value) if _is_bool(value) else _REFUSED
    if kind is int:
        return _whole(value)
    if kind is float:
        return _number(value)
    if kind in (str, Path) and isinstance(value, kind):
        return value
    if kind in (str, Path):  # options of specs that name files are texts
        return str(value) if kind is str and isinstance(value, Path) else _REFUSED
    if origin is Literal:
        known = any(type(one) is type(value) and one == value for one in get_args(kind))
        return value if known else _REFUSED
    if origin is Callable:
        return value if callable(value) else _REFUSED
    if origin is Mapping:
        if not isinstance(value, Mapping):
            return _REFUSED
        keys = [_taken(key, get_args(kind)[0]) for key in value]
        return _REFUSED if _REFUSED in keys else dict(zip(keys, value.values(), strict=True))
    assert origin is AnySequence
    return _listed(value, get_args(kind)[0])


def _is_bool(value: Any) -> bool:
    """Python's own and numpy's, which is not imported for it."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    return isinstance(value, bool) or (kind == "b" and not getattr(value, "ndim", 0))


def _whole(value: Any) -> Any:
    if _is_bool(value) or not isinstance(value, SupportsIndex):
        return _REFUSED
    try:
        number = operator.index(value)
    except Exception:  # arrays have the method and refuse
        return _REFUSED
    return number if LEAST <= number <= MOST else _REFUSED


def _number(value: Any) -> Any:
    many = getattr(value, "ndim", 0) != 0
    is_complex = getattr(getattr(value, "dtype", None), "kind", "") == "c"  # numpy's would lose a part
    if _is_bool(value) or many or is_complex or not isinstance(value, SupportsFloat | SupportsIndex):
        return _REFUSED
    try:
        number = float(value)
    except Exception:  # too large, or an array of several
        return _REFUSED
    return _REFUSED if math.isnan(number) else number


def _listed(value: Any, kind: Any) -> Any:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return _REFUSED
    if getattr(value, "ndim", 1) != 1:  # an array without dimensions says that it can be gone through
        return _REFUSED
    found = [
        next((t for one in _alternatives(kind) if (t := _taken(item, one)) is not _REFUSED), _REFUSED)
        for item in value
    ]
    return _REFUSED if _REFUSED in found else tuple(found)


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _words(kind: Any) -> str:
    words = [_word(one) for one in _alternatives(kind)]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _word(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return ", ".join(map(str, get_args(kind)))
    if origin is Callable:
        return "functions"
    if origin is Mapping:
        return "mappings"
    return f"lists of {_words(get_args(kind)[0])}" if origin is AnySequence else _WORDS[kind]


def _annotations(function: Callable[..., Any], signature: inspect.Signature) -> dict[str, Any]:
    """Keyword-only options and their kinds; without those that this file does not know."""
    names, found = getattr(function, "__globals__", {}), {}
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        annotation = parameter.annotation
        if isinstance(annotation, str):
            try:
                annotation = eval(annotation, names)
            except (NameError, TypeError):  # of another library, imported for type checkers alone
                continue
        annotation = type(None) if annotation is None else annotation
        if all(_known(one) for one in _alternatives(annotation)):
            found[parameter.name] = annotation
    return found


def _known(kind: Any) -> bool:
    origin = get_origin(kind)
    if origin is AnySequence:
        return all(_known(one) for one in _alternatives(get_args(kind)[0]))
    return kind in _WORDS or origin in (Literal, Callable, Mapping)
