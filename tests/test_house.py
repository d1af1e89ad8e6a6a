"""The picture of the imports shows those of today, and can be read."""

from __future__ import annotations

from graphlib import CycleError
from itertools import combinations
from xml.etree import ElementTree

import pytest

from docs.house import BOX, FRONT, HEIGHT, NATIVE, PICTURE, draw, house, reduced
from tests.test_layers import LAYERS, reachable

Arrows = set[tuple[str, str]]


def read(picture: str) -> tuple[dict[str, tuple[int, int]], Arrows]:
    """What a picture shows: where each layer's box begins, and the arrows."""
    root = ElementTree.fromstring(picture)
    boxes = {
        one.attrib["data-layer"]: (int(one.attrib["x"]), int(one.attrib["y"]))
        for one in root.iter()
        if "data-layer" in one.attrib
    }
    arrows = [
        (one.attrib["data-from"], one.attrib["data-to"]) for one in root.iter() if "data-from" in one.attrib
    ]
    assert len(arrows) == len(set(arrows))
    return boxes, set(arrows)


def test_the_picture_is_of_today() -> None:
    boxes, arrows = read(PICTURE.read_text())
    graph = house()
    assert set(boxes) == set(graph), "run: make docs"
    assert arrows == {(layer, other) for layer, below in graph.items() for other in below}, "run: make docs"


def test_arrows_are_imports_that_the_layers_allow() -> None:
    graph = house()
    assert NATIVE in graph and "core" in graph
    for layer, below in graph.items():
        for other in below - {NATIVE}:
            assert ("" if other == FRONT else other) in reachable("" if layer == FRONT else layer)
    assert not graph["core"] and set(graph) - {NATIVE, FRONT} <= set(LAYERS)


def test_arrows_that_follow_from_others_are_left_out() -> None:
    below = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "e": {"d"}}
    assert reduced(below) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set(), "e": {"d"}}


def test_a_circle_is_named() -> None:
    with pytest.raises(CycleError, match=r"'a'.*'b'|'b'.*'a'"):
        reduced({"a": {"b"}, "b": {"a"}})


@pytest.mark.parametrize(
    "graph",
    [
        house(),
        {"one": set()},
        {"top": {"left", "right"}, "left": {"low"}, "right": set(), "low": set()},
        {f"n{i}": {f"n{j}" for j in range(i) if (i * 7 + j * 3) % 5 == 0} for i in range(12)},
    ],
    ids=["house", "one", "uneven", "many"],
)
def test_boxes_do_not_overlap_and_arrows_lead_down(graph: dict[str, set[str]]) -> None:
    graph = dict(reduced(graph))
    picture = draw(graph)
    assert picture == draw(dict(reversed(graph.items()))), "the order of the folders on disk does not matter"
    boxes, arrows = read(picture)
    assert set(boxes) == set(graph)
    assert arrows == {(layer, other) for layer, below in graph.items() for other in below}
    for (left, top), (other_left, other_top) in combinations(boxes.values(), 2):
        assert abs(left - other_left) > BOX or abs(top - other_top) > HEIGHT
    assert all(boxes[layer][1] < boxes[other][1] for layer, other in arrows)
