"""Draws the folders of src/outpace and what imports what, from the imports: docs/house.svg.

An arrow means "imports". Arrows that follow from others are left out: whoever imports `engine` may import all
below it. A layer's row is as high as its longest way down; an arrow over several rows has a place in each
(Sugiyama, Tagawa, Toda 1981: "Methods for visual understanding of hierarchical system structures").

    python -m docs.house
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

from tests.test_layers import MODULES, imports, layer_of, layer_of_module

PICTURE = Path(__file__).with_name("house.svg")
FRONT, NATIVE = "outpace", "native"
BOX, HEIGHT, WAY, GAP, ROW, MARGIN = 176, 34, 26, 24, 68, 12  # pixels; WAY: of an arrow that passes a row
SWEEPS = 8

Graph = Mapping[str, set[str]]
Slot = tuple[str, ...]
"""What has a place in a row: (layer,) or an arrow that passes, (from, to, row)."""

STYLE = """
  .box { fill: #f3f5f8; stroke: #57606a; }
  .name { fill: #1f2328; font: 600 14px ui-sans-serif, system-ui, sans-serif; text-anchor: middle; }
  .arrow { fill: none; stroke: #57606a; stroke-width: 1.4; marker-end: url(#head); }
  #head path { fill: #57606a; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #21262d; stroke: #9198a1; }
    .name { fill: #f0f6fc; }
    .arrow { stroke: #9198a1; }
    #head path { fill: #9198a1; }
  }
"""


def house() -> Graph:
    """Layer -> the layers whose import does not follow from another; no layer imports itself in a circle."""
    below: dict[str, set[str]] = {}
    for module in MODULES:
        layer = layer_of_module(module) or FRONT
        below.setdefault(layer, set())
        for name in imports(module, module.read_text()):
            if name.partition(".")[0] == "outpace":
                other = NATIVE if name.startswith("outpace._native") else layer_of(name) or FRONT
                below[layer] |= {other} - {layer}
    return reduced(below)


def reduced(below: Graph) -> Graph:
    """Without the arrows that follow from others. Raises CycleError, which names the circle, where one is."""
    reach: dict[str, set[str]] = {}
    for layer in TopologicalSorter(below).static_order():
        reach[layer] = set().union(*({other} | reach[other] for other in below.get(layer, ())))
    return {
        layer: {one for one in below.get(layer, ()) if not any(one in reach[other] for other in below[layer])}
        for layer in reach
    }


def draw(graph: Graph) -> str:
    """The picture, SVG for light and dark pages."""
    ranks = _ranks(graph)
    arrows = [(layer, other) for layer in sorted(graph) for other in sorted(graph[layer])]
    ways = [
        [(a,), *((a, b, str(rank)) for rank in range(ranks[a] - 1, ranks[b], -1)), (b,)] for a, b in arrows
    ]
    rows: list[list[Slot]] = [[] for _ in range(max(ranks.values()) + 1)]
    for slot in sorted({slot for way in ways for slot in way} | {(layer,) for layer in graph}):
        rows[ranks[slot[0]] if len(slot) == 1 else int(slot[2])].append(slot)
    width = max(map(_width, rows)) + 2 * MARGIN
    height = (len(rows) - 1) * ROW + HEIGHT + 2 * MARGIN
    x = _places(rows, ways, width)
    top = {slot: MARGIN + (len(rows) - 1 - rank) * ROW for rank, row in enumerate(rows) for slot in row}
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    box = f'width="{BOX}" height="{HEIGHT}" rx="6"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
        "<title>The folders of src/outpace; an arrow means: imports</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>',
    ]
    for (layer, other), way in zip(arrows, ways, strict=True):
        line = f"M{x[way[0]]} {top[way[0]] + HEIGHT}"
        for upper, lower in pairwise(way):
            begin, end = top[upper] + HEIGHT, top[lower]
            middle = (begin + end) // 2
            line += f"C{x[upper]} {middle} {x[lower]} {middle} {x[lower]} {end}"
            line += f"V{end + HEIGHT}" if lower != way[-1] else ""
        lines.append(f'<path class="arrow" data-from="{layer}" data-to="{other}" d="{line}"/>')
    for layer in sorted(graph):
        left, at = x[layer,] - BOX // 2, top[layer,]
        lines += [
            f'<rect class="box" data-layer="{layer}" x="{left}" y="{at}" {box}/>',
            f'<text class="name" x="{x[layer,]}" y="{at + 22}">{layer}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def _ranks(graph: Graph) -> dict[str, int]:
    """The longest way down from each."""
    ranks: dict[str, int] = {}
    for layer in TopologicalSorter(graph).static_order():
        ranks[layer] = max((ranks[other] + 1 for other in graph[layer]), default=0)
    return ranks


def _width(row: Sequence[Slot]) -> int:
    return sum(BOX if len(slot) == 1 else WAY for slot in row) + GAP * (len(row) - 1)


def _places(rows: list[list[Slot]], ways: Sequence[Sequence[Slot]], width: int) -> dict[Slot, int]:
    """The middle of each slot. Rows are ordered by those above and those below, in turns."""
    beside: dict[Slot, list[Slot]] = {slot: [] for row in rows for slot in row}
    for way in ways:
        for upper, lower in pairwise(way):
            beside[upper].append(lower)
            beside[lower].append(upper)
    rank = {slot: number for number, row in enumerate(rows) for slot in row}
    x: dict[Slot, int] = {}
    for row in rows:
        _set(row, x, width)
    for sweep in range(SWEEPS):
        step = 1 if sweep % 2 else -1
        for row in rows[::step]:
            means = {}
            for slot in row:
                fixed = [x[other] for other in beside[slot] if rank[other] == rank[slot] - step]
                means[slot] = sum(fixed) / len(fixed) if fixed else x[slot]
            row.sort(key=lambda slot: (means[slot], slot))
            _set(row, x, width)
    return x


def _set(row: Sequence[Slot], x: dict[Slot, int], width: int) -> None:
    """A row in its order, in the middle of the picture."""
    left = (width - _width(row)) // 2
    for slot in row:
        own = BOX if len(slot) == 1 else WAY
        x[slot] = left + own // 2
        left += own + GAP


if __name__ == "__main__":
    PICTURE.write_text(draw(house()))
