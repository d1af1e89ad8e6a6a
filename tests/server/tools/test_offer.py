"""Which functions a request offers and asks for, and one line for what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from outpace.server.tools.offer import Offer, read_offer

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": SCHEMA}}
TIME = {"type": "function", "function": {"name": "get-time", "strict": True}}
BY_NAME = {"type": "function", "function": {"name": "get-time"}}


def offered(*args: Any) -> Offer:
    offer = read_offer(*args)
    assert offer is not None
    return offer


def test_tools_as_templates_expect_them() -> None:
    offer = offered([WEATHER, TIME])
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    assert list(offer.tools) == [
        WEATHER,
        {"type": "function", "function": {"name": "get-time", "description": "", "parameters": empty}},
    ]
    assert offer.schemas == {"weather": SCHEMA, "get-time": empty}
    untyped = {"type": "function", "function": {"name": "f", "parameters": {"properties": {}}}}
    assert offered([untyped]).schemas == {"f": {"type": "object", "properties": {}}}


@pytest.mark.parametrize(
    ("choice", "parallel", "names", "forced", "most"),
    [
        (None, None, ["weather", "get-time"], False, None),
        ("auto", True, ["weather", "get-time"], False, None),
        ("auto", False, ["weather", "get-time"], False, 1),
        ("required", None, ["weather", "get-time"], True, None),
        ("required", False, ["weather", "get-time"], True, 1),
        (BY_NAME, None, ["get-time"], True, 1),
    ],
)
def test_choices(
    choice: Any, parallel: bool | None, names: list[str], forced: bool, most: int | None
) -> None:
    offer = offered([WEATHER, TIME], choice, parallel)
    assert (list(offer.schemas), offer.forced, offer.most_calls) == (names, forced, most)
    assert len(offer.tools) == 2, "the model is told of all of them"


@pytest.mark.parametrize(
    "given", [(None,), ([],), (None, "none"), (None, "auto"), ([WEATHER], "none", False)]
)
def test_no_offer(given: tuple[Any, ...]) -> None:
    assert read_offer(*given) is None


def tool(**function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", **function}}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("weather",), r"tools is 'weather', accepted are lists of objects"),
        (({"a": 1},), r"tools is \{'a': 1\}, accepted are lists"),
        ((["weather"],), r"type of tools\[0\] is 'weather', accepted is \"function\""),
        (([WEATHER, {"type": "retrieval"}],), r"type of tools\[1\] is 'retrieval', accepted is \"function\""),
        (([{"type": "function"}],), r"tools\[0\]\.function is None, accepted are objects with a name"),
        ((tool(name="a b"),), r"tools\[0\]\.function\.name is 'a b', accepted are 1 to 64 letters"),
        ((tool(name=None),), r"function\.name is None"),
        ((tool(name="x" * 65),), r"function\.name is 'xx"),
        (([TIME, TIME],), r"tools\[1\]\.function\.name is 'get-time' once more"),
        ((tool(description=3),), r"tools\[0\]\.function\.description is 3, accepted are texts"),
        ((tool(parameters=[]),), r"function\.parameters is \[\], accepted are JSON schemas of objects"),
        ((tool(parameters={"type": "string"}),), r"accepted are JSON schemas of objects"),
        ((tool(parameters={"properties": []}),), r"parameters\.properties is \[\], accepted are objects"),
        ((tool(parameters={"required": "a"}),), r"parameters\.required is 'a', accepted are lists"),
        (([TIME], "any"), r"tool_choice is 'any', accepted are \"auto\", \"none\", \"required\" and"),
        (([TIME], {"type": "function"}), r"tool_choice is .*, accepted are \"auto\""),
        (([TIME], 3), r"tool_choice is 3, accepted are"),
        (([TIME], [1]), r"tool_choice is \[1\], accepted are"),
        (([WEATHER], BY_NAME), r"tool_choice names 'get-time', accepted are .*: weather"),
        ((None, "required"), r"tool_choice goes with tools, accepted without them are"),
        ((None, BY_NAME), r"tool_choice goes with tools"),
        (([TIME], None, "no"), r"parallel_tool_calls is 'no', accepted are true and false"),
    ],
)
def test_refused(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(OutpaceError, match=message) as error:
        read_offer(*given)
    assert "\n" not in str(error.value)
