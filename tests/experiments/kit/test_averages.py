"""The moving average of a training's weights: its definition, and a training that was killed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
import torch

from experiments.kit.averages import FORGET, train_averaged
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan

STEPS = 30


def run(folder: Path, seen: list[float], *, killed_at: int | None = None) -> float:
    """One weight that is drawn to a random number in every step; the average. seen: weights before steps."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)

    def loss(step: int, random: torch.Generator) -> Loss:
        if step == killed_at:
            raise KeyboardInterrupt
        seen.append(model.weight.item())
        return Loss((model.weight - torch.rand(1, generator=random)).square().sum(), 1)

    plan = Plan(STEPS, 0.1, checkpoint_s=0.0)
    averaged = train_averaged(model, loss, plan, Checkpoint(folder, {}))
    seen.append(model.weight.item())
    assert not averaged.training and not averaged.weight.requires_grad
    return averaged.weight.item()


def test_the_average_is_its_definition(tmp_path: Path) -> None:
    seen: list[float] = []
    found = run(tmp_path, seen)
    expected = 0.0
    for step, weight in enumerate(seen):
        share = min(FORGET, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * weight
    assert len(seen) == STEPS + 1 and found == pytest.approx(expected, abs=1e-6)
    assert abs(found - seen[-1]) > 1e-3


def test_a_killed_training_has_the_same_average(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", [])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", [], killed_at=17)
    rest: list[float] = []
    assert run(tmp_path / "killed", rest) == whole
    assert len(rest) == STEPS - 17 + 1
