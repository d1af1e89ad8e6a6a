"""The report's pictures beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.kit.grids import draw_grid
from experiments.kit.results import Record, Results


def draw_pictures(path: Path, results: Results, model: str) -> None:
    """A row for each picture that was recorded whole: input, the model's greedy, exact, distance, truth."""
    rows = [record for record in results.of("picture", model=model, rule="greedy") if "intensities" in record]
    lines = []
    for greedy in rows:
        shape = np.shape(greedy["truth"])
        same = results.of("picture", model=model, picture=greedy["picture"])
        columns = {"input": np.array(greedy["small"], np.uint8), "greedy": _picture(greedy, shape)}
        # Of several numbers of heads (on a frozen base) the last, the largest.
        found = {record["rule"]: _picture(record, shape) for record in same if record["draft"] == "heads"}
        columns |= {{"match": "exact"}.get(rule, rule): picture for rule, picture in found.items()}
        lines.append(columns | {"truth": np.array(greedy["truth"], np.uint8)})
    draw_grid(path, lines)


def _picture(record: Record, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.array(record["intensities"], np.uint8).reshape(shape)
