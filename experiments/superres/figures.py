"""The report's pictures beside each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from experiments.results import Record, Results

SIDE = 128  # pixels of a picture in the grid
GAP, LABEL = 6, 16


def draw_pictures(path: Path, results: Results, model: str) -> None:
    """A row for each picture that was recorded whole: input, the model's greedy, exact, distance, truth."""
    rows = [record for record in results.of("picture", model=model, rule="greedy") if "intensities" in record]
    lines = []
    for greedy in rows:
        shape = np.shape(greedy["truth"])
        same = results.of("picture", model=model, picture=greedy["picture"])
        columns = {"input": np.array(greedy["small"], np.uint8), "greedy": _picture(greedy, shape)}
        # Of several numbers of heads (on a frozen base) the last, the largest.
        columns |= {record["rule"]: _picture(record, shape) for record in same if record["k"] > 1}
        lines.append(columns | {"truth": np.array(greedy["truth"], np.uint8)})
    width = GAP + len(lines[0]) * (SIDE + GAP)
    grid = Image.new("RGB", (width, LABEL + GAP + len(lines) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(grid)
    for column, label in enumerate(lines[0]):
        left = GAP + column * (SIDE + GAP)
        draw.text((left, GAP), {"match": "exact"}.get(label, label), fill="black")
        for row, columns in enumerate(lines):
            grid.paste(_enlarged(columns[label]), (left, LABEL + GAP + row * (SIDE + GAP)))
    grid.save(path)


def _picture(record: Record, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return np.array(record["intensities"], np.uint8).reshape(shape)


def _enlarged(picture: NDArray[np.uint8]) -> Image.Image:
    """u8[h, w, 1 or 3] with the nearest pixel everywhere."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
