"""What tests of the experiments' runs have in common: pictures to train on, and what a run has left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def synthetic(count: int, seed: int) -> np.ndarray:
    """u8[count, 8, 8, 3]: slopes in every direction, with two shades of edge."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] / 8
    slopes = random.uniform(-60, 60, (2, count, 1, 1))
    edge = np.where(x < random.uniform(0, 1, (count, 1, 1)), 0, random.integers(-1, 2, (count, 1, 1)) * 40)
    grey = 128 + slopes[0] * (x - 0.5) + slopes[1] * (y - 0.5) + edge
    return np.repeat(grey.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=3)


def state(work: Path) -> dict[str, tuple[int, bytes]]:
    """Every file, with when it was written and what it holds."""
    files = [path for path in work.rglob("*") if path.is_file()]
    return {str(path.relative_to(work)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def check_report(folder: Path, *figures: str) -> str:
    """Its text: all fields are filled in, no path of this machine, and figures that are more than a dot."""
    report = (folder / "REPORT.md").read_text()
    assert "$" not in report and str(folder.parent) not in report
    for name in figures:
        with Image.open(folder / name) as image:
            assert min(image.size) > 60
    return report
