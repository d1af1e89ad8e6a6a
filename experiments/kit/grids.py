"""Small pictures beside each other, enlarged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDE = 128  # pixels of a picture in the grid
GAP, LABEL = 6, 16


def draw_grid(path: Path, lines: Sequence[Mapping[str, NDArray[np.uint8]]]) -> None:
    """A row for each line, a column for each label; pictures are u8[h, w, 1 or 3]."""
    width = GAP + len(lines[0]) * (SIDE + GAP)
    grid = Image.new("RGB", (width, LABEL + GAP + len(lines) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(grid)
    for column, label in enumerate(lines[0]):
        left = GAP + column * (SIDE + GAP)
        draw.text((left, GAP), label, fill="black")
        for row, columns in enumerate(lines):
            grid.paste(_enlarged(columns[label]), (left, LABEL + GAP + row * (SIDE + GAP)))
    grid.save(path)


def _enlarged(picture: NDArray[np.uint8]) -> Image.Image:
    """With the nearest pixel everywhere."""
    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).convert("RGB")
    return image.resize((SIDE, SIDE), Image.Resampling.NEAREST)
