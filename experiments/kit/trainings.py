"""Trainings that last so many minutes: how many steps fit is measured once, and kept for runs that go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, TypeVar

import torch

from outpace.core.errors import OutpaceError
from outpace.progress import Progress, progress_bar
from outpace.targets.hf_taps import model_fingerprint
from outpace.train.checkpoint import RUN, Checkpoint
from outpace.train.loop import Loss, Plan, train
from outpace.train.origin import unlike
from outpace.train.precision import PRECISIONS, Precision

PACE, FINISHED = "pace.json", "finished"
PACE_STEPS = 24  # the first ones allocate
CLEARLY = 1.2  # as much faster bfloat16 has to be

LossOf = Callable[[int, torch.Generator], Loss]
Module = TypeVar("Module", bound=torch.nn.Module)
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
        _announce(folder.name, number, minutes)
    with progress_bar() as progress:
        run(folder, number, progress)


def train_base(
    where: Path,
    new: Callable[[], Module],
    loss: Callable[[Module, Precision], LossOf],
    finish: Callable[[Module, int], dict[str, Any]],
    *,
    settings: dict[str, Any],
    lr: float,
    minutes: float,
    steps: int | None,
    seed: int,
    weight_decay: float = 0.0,
) -> None:
    """Train the model that heads are put on, or on from where that was killed.

    new     the model at its beginning, on its device. loss: of a model whose products have a precision.
    finish  saves a model that has made so many steps, and judges it: facts for its run.json.
    steps   in place of minutes. How many fit, and which precision is faster, is measured once, on models
            that are thrown away.
    """

    def measure() -> dict[str, Any]:
        seconds: dict[Precision, float] = {}
        for precision in PRECISIONS:
            model = new()
            seconds[precision] = _step_seconds(model, loss(model, precision))
        # Attention of short texts may be slower in bfloat16, whatever large products are.
        faster: Precision = "bfloat16" if CLEARLY * seconds["bfloat16"] < seconds["float32"] else "float32"
        number = max(1, round(60 * minutes / seconds[faster])) if steps is None else steps
        return {"precision": faster, "steps": number}

    pace = measured_once(where, measure)
    plan = Plan(int(pace["steps"]), lr, weight_decay=weight_decay, seed=seed)
    checkpoint = Checkpoint(where, {**settings, "precision": pace["precision"], **asdict(plan)})
    _announce(where.name, plan.steps, 0 if steps else minutes)
    model = new().train()
    with progress_bar() as progress:
        train([model], loss(model, pace["precision"]), plan, checkpoint, progress=progress)
    facts = finish(model.eval(), plan.steps)
    checkpoint.note(**facts)
    checkpoint.done()
    print(f"{where.name}: " + ", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)


def _step_seconds(model: torch.nn.Module, loss: LossOf) -> float:
    """The median time of a training step."""
    optimizer, times = torch.optim.AdamW(model.train().parameters()), []
    for step in range(PACE_STEPS):
        began = perf_counter()
        one = loss(step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        one.value.backward()
        optimizer.step()
        float(one.value.detach())  # wait for the device
        times.append(perf_counter() - began)
    return median(times)


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


def _announce(name: str, steps: int, minutes: float) -> None:
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


def is_finished(folder: Path, *, by: str = FINISHED, **settings: Any) -> bool:
    """Whether a training is done; an OutpaceError if it is, with other settings than these.

    by  the fact in its run.json that is noted last.
    """
    path = folder / RUN
    run = json.loads(path.read_text()) if path.exists() else {}
    if by not in run:
        return False
    listed = unlike({name: run["settings"].get(name) for name in settings}, settings)
    if listed:
        raise OutpaceError(f"{folder} holds a run with {listed}; accepted are the same or a new folder")
    return True


def duration_of(*stages: Path) -> dict[str, Any]:
    """Steps and minutes of a training of one stage or more, for records."""
    runs = [json.loads((folder / RUN).read_text()) for folder in stages]
    minutes = sum(run["seconds"] for run in runs) / 60
    return {"steps": sum(run["steps_done"] for run in runs), "minutes": round(minutes, 1)}


def short_fingerprint(model: Any) -> str:
    """Ties what is made with a model to it."""
    return model_fingerprint(model).removeprefix("sha256:")[:12]
