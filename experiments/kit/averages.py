"""Training with a moving average of the weights, which is kept: it samples better than the last weights.

The average is part of the checkpoints, so that a run that was killed goes on with the same result.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch

from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train

FORGET = 0.999  # of the average, in the end
Module = TypeVar("Module", bound=torch.nn.Module)


def train_averaged(
    model: Module,
    loss: Callable[[int, torch.Generator], Loss],
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
