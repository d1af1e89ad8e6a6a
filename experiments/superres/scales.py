"""How large the experiment is: the model, minutes of training for each part, pictures to judge by."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from outpace.targets.pixel_model import PixelConfig


@dataclass(frozen=True, slots=True)
class Scale:
    """Minutes are on two cores with nothing beside.

    batch       pictures of a training step.
    finetuned   minutes for each number of heads; `frozen` heads are trained once, for the largest.
    num_heads   the k of the table.
    pictures    how many held-out pictures are written with every setting.
    """

    config: PixelConfig
    batch: int
    base_minutes: float
    frozen_minutes: float
    finetuned_minutes: float
    pictures: int
    num_heads: tuple[int, ...] = (2, 4, 6, 8)


_QUARTER = PixelConfig(hidden_size=96, num_layers=3, num_heads=3, feedforward_size=384)
_TINY = PixelConfig(
    height=8, width=8, hidden_size=16, num_layers=1, num_heads=2, feedforward_size=32, window=16
)

SCALES = {
    "full": Scale(PixelConfig(), 16, 150, 25, 30, 200),
    "session": Scale(_QUARTER, 8, 18, 4, 5, 32),
    "smoke": Scale(_TINY, 8, 0.03, 0.02, 0.02, 2, (2, 4)),
}


def steps_for(minutes: float, path: Path, step_seconds: Callable[[], float]) -> int:
    """How many steps the minutes are enough for: measured once, and kept in a file for runs that go on."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        steps = max(1, round(60 * minutes / step_seconds()))
        path.write_text(json.dumps({"minutes": minutes, "steps": steps}) + "\n")
    return int(json.loads(path.read_text())["steps"])
