"""What tests of the experiments' runs have in common: pictures to train on, and what a run has left."""

from __future__ import annotations

import json
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


def kill(folder: Path, training: Path, weights: Path, *, cut: int = 5, by: str = "finished") -> list[bytes]:
    """Leave a run as if it had been killed before the end of a training, and in the middle of a result.

    by  the fact in its run.json that is noted last. Returns the lines of the results as they were; of the
    last `cut`, the first is half there.
    """
    record = json.loads((training / "run.json").read_text())
    del record[by]
    (training / "run.json").write_text(json.dumps(record))
    weights.unlink()
    results = folder / "results.jsonl"
    lines = results.read_bytes().splitlines(keepends=True)
    results.write_bytes(b"".join(lines[:-cut]) + lines[-cut][:20])
    (folder / "REPORT.md").unlink()
    return lines


def check_report(folder: Path, *figures: str) -> str:
    """Its text: all fields are filled in, no path of this machine, and figures that are more than a dot."""
    report = (folder / "REPORT.md").read_text()
    assert "$" not in report and str(folder.parent) not in report
    for name in figures:
        with Image.open(folder / name) as image:
            assert min(image.size) > 60
    return report
