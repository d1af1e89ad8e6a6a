"""`tools`, `tool_choice` and `parallel_tool_calls` of a request, as OpenAI has them.

https://platform.openai.com/docs/api-reference/chat/create
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from outpace.core.errors import OutpaceError
from outpace.core.options import shown

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
CHOICES = '"auto", "none", "required" and {"type": "function", "function": {"name": ...}}'


@dataclass(frozen=True, slots=True)
class Offer:
    """The functions that a model is told of, and which of them it may or must call.

    - `tools`: for the template, every one with name, description and parameters.
    - `schemas`: of the functions that may be called, by name.
    - `forced`: it must call one. `most_calls`: how many calls there may be; None is any number.
    """

    tools: tuple[Mapping[str, Any], ...]
    schemas: Mapping[str, Mapping[str, Any]]
    forced: bool = False
    most_calls: int | None = None


def read_offer(
    tools: Any = None, tool_choice: Any = None, parallel_tool_calls: bool | None = None
) -> Offer | None:
    """The offer of a request, None where no function may be called. Raises OutpaceError."""
    if not isinstance(parallel_tool_calls, bool | None):
        raise OutpaceError(
            f"parallel_tool_calls is {shown(parallel_tool_calls)}, accepted are true and false"
        )
    functions = _functions(tools)
    name = _named(tool_choice)
    if name is None and tool_choice not in (None, "auto", "none", "required"):
        raise OutpaceError(f"tool_choice is {shown(tool_choice)}, accepted are {CHOICES}")
    if not functions:
        if tool_choice in (None, "auto", "none"):
            return None
        raise OutpaceError('tool_choice goes with tools, accepted without them are "auto" and "none"')
    if tool_choice == "none":
        return None
    if name is not None and name not in functions:
        names = ", ".join(functions)
        raise OutpaceError(f"tool_choice names {shown(name)}, accepted are the functions of tools: {names}")
    may_be = functions if name is None else {name: functions[name]}
    return Offer(
        tools=tuple({"type": "function", "function": function} for function in functions.values()),
        schemas={name: _schema(function["parameters"]) for name, function in may_be.items()},
        forced=name is not None or tool_choice == "required",
        most_calls=1 if parallel_tool_calls is False or name is not None else None,
    )


def _named(choice: Any) -> str | None:
    if not isinstance(choice, Mapping) or choice.get("type") != "function":
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _functions(tools: Any) -> dict[str, dict[str, Any]]:
    """The functions by name, in their order."""
    if tools is None:
        return {}
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise OutpaceError(f"tools is {shown(tools)}, accepted are lists of objects with type and function")
    functions: dict[str, dict[str, Any]] = {}
    for place, tool in enumerate(tools):
        where = f"tools[{place}]"
        kind = tool.get("type") if isinstance(tool, Mapping) else tool
        if kind != "function":
            raise OutpaceError(f'the type of {where} is {shown(kind)}, accepted is "function"')
        function = tool.get("function")
        if not isinstance(function, Mapping):
            raise OutpaceError(f"{where}.function is {shown(function)}, accepted are objects with a name")
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise OutpaceError(
                f"{where}.function.name is {shown(name)}, accepted are 1 to 64 letters, digits, _, - and ."
            )
        if name in functions:
            raise OutpaceError(f"{where}.function.name is {shown(name)} once more, accepted are other names")
        description = function.get("description") or ""
        if not isinstance(description, str):
            raise OutpaceError(f"{where}.function.description is {shown(description)}, accepted are texts")
        functions[name] = {
            "name": name,
            "description": description,
            "parameters": _parameters(f"{where}.function.parameters", function.get("parameters")),
        }
    return functions


def _parameters(where: str, parameters: Any) -> Mapping[str, Any]:
    if parameters is None:
        return _NO_PARAMETERS
    kind = parameters.get("type", "object") if isinstance(parameters, Mapping) else None
    if not isinstance(parameters, Mapping) or kind != "object":
        raise OutpaceError(f"{where} is {shown(parameters)}, accepted are JSON schemas of objects")
    for name, kinds, accepted in (("properties", Mapping, "objects"), ("required", list, "lists")):
        if name in parameters and not isinstance(parameters[name], kinds):
            raise OutpaceError(f"{where}.{name} is {shown(parameters[name])}, accepted are {accepted}")
    return parameters


def _schema(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    # Without its type, a schema allows texts and numbers too.
    return {**parameters, "type": "object"}
