"""Trainings that last so many minutes: how many steps fit is measured once, and kept for runs that go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from outpace.core.errors import OutpaceError
from outpace.progress import Progress, progress_bar
from outpace.targets.hf_taps import model_fingerprint
from outpace.train.checkpoint import RUN
from outpace.train.origin import unlike
from outpace.train.precision import Precision

PACE = "pace.json"
PACE_STEPS = 24  # the first ones allocate

Run = Callable[[Path, int, Progress | None], None]
"""Train for so many steps into a folder, with a progress bar or none."""


def train_within(minutes: float, folder: Path, run: Run, *, steps: int | None = None) -> None:
    """Run a training to its end, or on from where it was killed. `steps` in place of minutes."""

    def step_seconds() -> float:
        with TemporaryDirectory() as other:
            run(Path(other), PACE_STEPS, None)
            seconds: float = json.loads((Path(other) / RUN).read_text())["seconds"]
        return seconds / PACE_STEPS

    number = steps_for(minutes, folder, step_seconds, steps=steps)
    if not is_finished(folder):
        announce(folder.name, number, minutes)
    with progress_bar() as progress:
        run(folder, number, progress)


def steps_for(
    minutes: float, folder: Path, step_seconds: Callable[[], float], *, steps: int | None = None
) -> int:
    """How many steps the minutes are enough for, unless `steps` says how many."""
    if steps is not None:
        return steps

    def measure() -> dict[str, Any]:
        return {"minutes": minutes, "steps": max(1, round(60 * minutes / step_seconds()))}

    return int(measured_once(folder, measure)["steps"])


def precision_of(folder: Path) -> Precision:
    """Of the training of a base in a folder: measured once, for whatever is trained on it too."""
    precision: Precision = json.loads((folder / PACE).read_text()).get("precision", "float32")
    return precision


def announce(name: str, steps: int, minutes: float) -> None:
    """A line for whoever waits. minutes: 0 where only the steps were given."""
    print(f"{name}: {steps} steps" + (f", about {minutes:g} minutes" if minutes else ""), flush=True)


def measured_once(folder: Path, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The facts of a folder's pace.json, which are measured where there is none."""
    path = folder / PACE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(measure()) + "\n")
        part.replace(path)
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def is_finished(folder: Path, **settings: Any) -> bool:
    """Whether a training is done; an OutpaceError if it is, with other settings than these."""
    path = folder / RUN
    run = json.loads(path.read_text()) if path.exists() else {}
    if "finished" not in run:
        return False
    listed = unlike({name: run["settings"].get(name) for name in settings}, settings)
    if listed:
        raise OutpaceError(f"{folder} holds a run with {listed}; accepted are the same or a new folder")
    return True


def duration_of(folder: Path) -> dict[str, Any]:
    """Steps and minutes of a training, for records."""
    run = json.loads((folder / RUN).read_text())
    return {"steps": run["steps_done"], "minutes": round(run["seconds"] / 60, 1)}


class GoingOn(Protocol):
    """A training of heads that goes on with what another one has made, or with nothing."""

    @property
    def before(self) -> GoingOn | None:
        """The other one."""

    def heads(self, folder: Path) -> Path:
        """Where its heads lie in the folder of a scale."""


def steps_before(training: GoingOn, folder: Path) -> int:
    """Of all trainings that it goes on with: their batches have been read."""
    steps, before = 0, training.before
    while before is not None:
        steps += duration_of(before.heads(folder))["steps"]
        before = before.before
    return steps


def short_fingerprint(model: Any) -> str:
    """Ties what is made with a model to it."""
    return model_fingerprint(model).removeprefix("sha256:")[:12]
