"""Trainings that last so many minutes: how many steps that is, and what is left of one that is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from experiments.kit import trainings
from experiments.kit.trainings import LossOf, is_finished, precision_of, steps_for, train_base
from outpace.core.errors import OutpaceError
from outpace.train.loop import Loss

Linear = torch.nn.Linear


def train(folder: Path, *, steps: int | None = None, killed_at: int | None = None, seed: int = 3) -> None:
    """One weight that is drawn to a random number in every step."""

    def new() -> Linear:
        torch.manual_seed(seed)
        return Linear(1, 1, bias=False)

    def loss_of(model: Linear, _: str) -> LossOf:
        def loss(step: int, random: torch.Generator) -> Loss:
            if step == killed_at:
                raise KeyboardInterrupt
            return Loss((model.weight - torch.rand(1, generator=random)).square().sum(), 1)

        return loss

    def finish(model: Linear, steps: int) -> dict[str, Any]:
        assert not model.training
        return {"weight": model.weight.item(), "judged": steps}

    train_base(
        folder, new, loss_of, finish, settings={"data": "d"}, lr=0.1, minutes=2, steps=steps, seed=seed
    )  # fmt: skip


def run_of(folder: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return run


def test_steps_are_measured_once(tmp_path: Path) -> None:
    assert steps_for(2, tmp_path, lambda: 0.5) == 240
    assert steps_for(2, tmp_path, lambda: 9.0) == 240
    assert steps_for(2, tmp_path / "other", lambda: 9.0, steps=7) == 7


def test_a_killed_base_has_the_weights_of_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace is that of the first start, though the machine is another one by then."""
    monkeypatch.setattr(trainings, "_step_seconds", lambda model, loss: 4.0)
    train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", killed_at=20)
    assert not is_finished(tmp_path / "killed", by="judged")
    monkeypatch.setattr(trainings, "_step_seconds", lambda model, loss: 1.0)
    train(tmp_path / "killed")
    whole, killed = (run_of(tmp_path / name) for name in ("whole", "killed"))
    assert whole["judged"] == killed["judged"] == 30 and whole["weight"] == killed["weight"]
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    assert precision_of(tmp_path / "whole") == whole["settings"]["precision"]


def test_what_is_done_is_of_its_settings(tmp_path: Path) -> None:
    train(tmp_path / "base", steps=2)
    assert is_finished(tmp_path / "base", by="judged", data="d", seed=3)
    assert not is_finished(tmp_path / "base") and not is_finished(tmp_path / "none", by="judged")
    with pytest.raises(
        OutpaceError, match=r"base holds a run with seed=3 \(now \d+\); accepted are the same"
    ):
        is_finished(tmp_path / "base", by="judged", data="d", seed=4)


def test_a_step_is_timed_by_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones allocate, and one may be disturbed."""
    clock = iter(range(10_000))
    waits = iter([900, *[7] * 20, 500, *[7] * 20])
    now = [0]

    def perf_counter() -> float:
        if next(clock) % 2:
            now[0] += next(waits)
        return now[0]

    monkeypatch.setattr(trainings, "perf_counter", perf_counter)
    model = Linear(1, 1)
    assert trainings._step_seconds(model, lambda *_: Loss(model.weight.square().sum(), 1)) == 7
