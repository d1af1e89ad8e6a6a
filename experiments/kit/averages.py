"""Training with a moving average of the weights, which is kept: it samples better than the last weights.

The average is part of the checkpoints, so that a run that was killed goes on with the same result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.kit.trainings import FINISHED, LossOf, Module, train_within
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train

FORGET = 0.999  # of the average, in the end


def train_averaged_within(
    minutes: float,
    folder: Path,
    new: Callable[[], Module],
    loss: Callable[[Module], LossOf],
    finish: Callable[[Module, Path, int], dict[str, Any]],
    *,
    settings: dict[str, Any],
    lr: float,
    steps: int | None,
    seed: int,
    weight_decay: float = 0.0,
) -> None:
    """Train a model for so many minutes, or steps in place of them; done already: nothing.

    finish  of the average after so many steps: saves it in a folder; facts for its run.json.
    """

    def run(where: Path, steps: int, progress: Progress | None) -> None:
        plan = Plan(steps, lr, weight_decay=weight_decay, seed=seed)
        checkpoint = Checkpoint(where, {**settings, **asdict(plan)})
        if FINISHED in checkpoint.run:
            return
        torch.manual_seed(seed)
        model = new()
        averaged = train_averaged(model, loss(model), plan, checkpoint, progress=progress)
        facts = finish(averaged.cpu(), where, steps)
        checkpoint.note(**{FINISHED: True}, **facts)
        checkpoint.done()

    train_within(minutes, folder, run, steps=steps)


def train_averaged(
    model: Module,
    loss: LossOf,
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    progress: Progress | None = None,
) -> Module:
    """Train a model as `train` does; returns the average, for use."""
    averaged = copy.deepcopy(model).requires_grad_(False)

    def followed(step: int, random: torch.Generator) -> Loss:
        _follow(averaged, model, step)
        return loss(step, random)

    train([model, averaged], followed, plan, checkpoint, progress=progress)
    _follow(averaged, model, plan.steps)
    return averaged.eval()


@torch.no_grad()
def _follow(averaged: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Move the average towards the model, the further the fewer steps there were."""
    share = 1 - min(FORGET, (1 + step) / (10 + step))
    for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, share)
