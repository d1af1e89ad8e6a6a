"""The training loop: it learns, and a run that was killed gives the bits of one that was not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch

from outpace.core.errors import OutpaceError
from outpace.train.checkpoint import RUN, STATE, Checkpoint
from outpace.train.loop import LOSSES, Loss, Plan, train

WANTED = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


class Killed(Exception):
    """What the process would not survive."""


def model() -> Any:
    torch.manual_seed(1)
    return torch.nn.Linear(3, 2, bias=False)


def loss_of(layer: Any, *, at: int = -1, value: float | None = None) -> Any:
    """The squared error on random inputs; at step `at` the process dies, or the loss is `value`."""

    def loss(step: int, random: torch.Generator) -> Loss:
        if step == at and value is None:
            raise Killed
        x = torch.randn(8, 3, generator=random)
        error = (layer(x) - x @ WANTED.T).square().mean()
        return Loss(error * value if step == at and value is not None else error, 8)

    return loss


def run(folder: Path, plan: Plan, *, at: int = -1, value: float | None = None, seen: Any = None) -> Any:
    layer = model()
    checkpoint = Checkpoint(folder, {"steps": plan.steps})
    progress = None if seen is None else lambda *call: seen.append(call)
    train([layer], loss_of(layer, at=at, value=value), plan, checkpoint, progress=progress)
    return layer


@pytest.mark.parametrize("seed", [-1, 1 << 32])
def test_seeds_out_of_range(seed: int) -> None:
    with pytest.raises(OutpaceError, match=f"seed={seed}, accepted are 0 to 4294967295"):
        Plan(3, seed=seed)


def test_it_learns_a_linear_map(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    layer = run(tmp_path, Plan(300, lr=0.1), seen=seen)
    assert (layer.weight - WANTED).abs().max() < 0.01
    written = json.loads((tmp_path / RUN).read_text())
    assert written["steps_done"] == 300 and written["seconds"] > 0
    curve = written["losses"]
    assert [step for step, _ in curve] == list(range(1, 301)) and curve[-1][1] < 0.01 * curve[0][1]
    assert [call[:2] for call in seen] == [(step, 300) for step in range(1, 301)]
    assert "loss" in seen[-1][2] and "tokens/s" in seen[-1][2]


def test_the_curve_has_means_of_as_many_steps(tmp_path: Path) -> None:
    steps = 2 * LOSSES
    layer = model()
    losses: list[float] = []

    def loss(step: int, random: torch.Generator) -> Loss:
        one = loss_of(layer)(step, random)
        losses.append(float(one.value.detach()))
        return one

    train([layer], loss, Plan(steps), Checkpoint(tmp_path, {}))
    curve = json.loads((tmp_path / RUN).read_text())["losses"]
    assert [step for step, _ in curve] == list(range(2, steps + 1, 2))
    means = [(a + b) / 2 for a, b in zip(losses[::2], losses[1::2], strict=True)]
    assert [value for _, value in curve] == pytest.approx(means, abs=6e-5)


@pytest.mark.parametrize("at", [1, 7, 19])
def test_a_killed_run_gives_the_same_bits(tmp_path: Path, at: int) -> None:
    plan = Plan(20, lr=0.05, seed=3, checkpoint_s=0)
    whole = run(tmp_path / "whole", plan)
    with pytest.raises(Killed):
        run(tmp_path / "killed", plan, at=at)
    state = Checkpoint(tmp_path / "killed", {"steps": 20}).load()
    assert state is not None and state["step"] == at
    seen: list[Any] = []
    resumed = run(tmp_path / "killed", plan, seen=seen)
    assert len(seen) == 20 - at, "the steps before are not made again"
    assert torch.equal(resumed.weight, whole.weight)
    curves = [json.loads((tmp_path / name / RUN).read_text())["losses"] for name in ("whole", "killed")]
    assert curves[0] == curves[1]
    assert torch.equal(run(tmp_path / "killed", plan, at=0).weight, whole.weight), "nothing is left to do"


def test_between_checkpoints_the_steps_are_made_again(tmp_path: Path) -> None:
    """Of a run that came to step 9 the state of step 5 is left; the curve does not say anything twice."""
    plan = Plan(12, lr=0.05, checkpoint_s=0)
    whole = run(tmp_path / "whole", plan)
    with pytest.raises(Killed):
        run(tmp_path / "killed", plan, at=5)
    state = (tmp_path / "killed" / STATE).read_bytes()
    with pytest.raises(Killed):
        run(tmp_path / "killed", plan, at=9)
    (tmp_path / "killed" / STATE).write_bytes(state)
    assert torch.equal(run(tmp_path / "killed", plan).weight, whole.weight)
    curve = json.loads((tmp_path / "killed" / RUN).read_text())["losses"]
    assert curve == json.loads((tmp_path / "whole" / RUN).read_text())["losses"]


@pytest.mark.parametrize(
    "change",
    [
        {"step": None},
        {"step": "x"},
        {"modules": []},
        {"modules": 3},
        {"modules": [{"weight": torch.zeros(1)}]},
        {"modules": [[1]]},
        {"optimizer": {}},
        {"optimizer": None},
    ],
)
def test_a_state_of_something_else_is_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    plan = Plan(12, lr=0.05, checkpoint_s=0)
    with pytest.raises(Killed):
        run(tmp_path, plan, at=5)
    state = torch.load(tmp_path / STATE, weights_only=True)
    rest = {name: value for name, value in state.items() if name not in change}
    wrongs: list[Any] = [state | change, [], rest]
    for wrong in wrongs:
        torch.save(wrong, tmp_path / STATE)
        with pytest.raises(OutpaceError, match=r"checkpoint\.pt holds no state of this training .*remove it"):
            run(tmp_path, plan)


def moments(state: dict[str, Any]) -> dict[str, Any]:
    return state["optimizer"]["state"][0]


@pytest.mark.parametrize(
    "change",
    [
        *(lambda s, n=n: s.update(step=n) for n in (-3, 0, 13, 10**30, 1e300, math.inf, "2", True)),
        lambda s: moments(s).update(exp_avg=torch.zeros(7)),
        lambda s: moments(s).update(exp_avg=None),
        lambda s: moments(s).update(step="x"),
        lambda s: moments(s).update(step=torch.tensor(math.nan)),
        lambda s: moments(s)["exp_avg"].fill_(math.nan),
        lambda s: moments(s).clear(),
        lambda s: moments(s).update(max_exp_avg_sq=torch.zeros(2, 3)),
        lambda s: s["optimizer"].update(state={}),
        lambda s: s["optimizer"].update(state=[]),
        lambda s: s["optimizer"]["state"].update({5: moments(s)}),
        lambda s: s["optimizer"]["state"].update({"x": moments(s)}),
        lambda s: s["optimizer"].update(param_groups=[]),
        lambda s: s["modules"][0]["weight"].fill_(math.nan),
        lambda s: s["modules"][0].update(weight=torch.ones(2, 3, dtype=torch.int64)),
        lambda s: s["modules"][0].update(weight=torch.ones(2, 3, dtype=torch.complex64)),
        lambda s: s["modules"][0].update(weight=torch.ones(2, 3).to_sparse()),
        lambda s: s["modules"][0].update(weight=torch.ones(2, 3, device="meta")),
        lambda s: s["modules"][0].update(weight="x"),
        lambda s: s["modules"][0].update(more=torch.ones(1)),
        lambda s: s.update(modules={}),
    ],
)  # fmt: skip
def test_a_state_of_other_content_is_one_line(tmp_path: Path, change: Any) -> None:
    """It can be read, and says what no training could go on from."""
    plan = Plan(12, lr=0.05, checkpoint_s=0)
    with pytest.raises(Killed):
        run(tmp_path, plan, at=5)
    state = torch.load(tmp_path / STATE, weights_only=True)
    change(state)
    torch.save(state, tmp_path / STATE)
    with pytest.raises(OutpaceError, match=r"checkpoint\.pt holds no state of this training .*remove it"):
        run(tmp_path, plan)


@pytest.mark.parametrize("options", [{"betas": "ab"}, {"betas": (0.1, 0.2)}, {"amsgrad": True}, {"lr": "x"}])
def test_options_of_the_optimizer_are_those_of_the_plan(tmp_path: Path, options: dict[str, Any]) -> None:
    plan = Plan(12, lr=0.05, checkpoint_s=0)
    whole = run(tmp_path / "whole", plan)
    with pytest.raises(Killed):
        run(tmp_path / "killed", plan, at=5)
    state = torch.load(tmp_path / "killed" / STATE, weights_only=True)
    state["optimizer"]["param_groups"][0].update(options)
    del state["optimizer"]["param_groups"][0]["eps"]
    torch.save(state, tmp_path / "killed" / STATE)
    assert torch.equal(run(tmp_path / "killed", plan).weight, whole.weight)


def test_checkpoints_are_as_far_apart_as_the_plan_says(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Plan(20, checkpoint_s=1e6), at=15)
    assert not (tmp_path / STATE).exists()


def test_seeds_differ(tmp_path: Path) -> None:
    weights = [run(tmp_path / str(seed), Plan(3, seed=seed)).weight for seed in (0, 1)]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path, value: float) -> None:
    plan = Plan(10, lr=0.5, checkpoint_s=0)
    with pytest.raises(OutpaceError, match=r"the loss of step 6 is (nan|inf); a lower learning rate"):
        run(tmp_path, plan, at=6, value=value)
    state = Checkpoint(tmp_path, {"steps": 10}).load()
    assert state is not None and state["step"] == 6 and state["modules"][0]["weight"].isfinite().all()


def test_the_rate_warms_up_and_falls_as_a_cosine() -> None:
    plan = Plan(100, lr=2.0, warmup=0.1)
    rates = [plan.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0 and rates[55] == pytest.approx(1.0) and rates[99] < 0.001
    assert sorted(rates[10:], reverse=True) == rates[10:]
    assert Plan(1, lr=2.0).rate(0) == 2.0


def test_weights_that_are_no_numbers_replace_no_checkpoint(tmp_path: Path) -> None:
    layer, plan = model(), Plan(10, lr=0.5, checkpoint_s=0)
    checkpoint, usual = Checkpoint(tmp_path, {}), loss_of(layer)

    def loss(step: int, random: torch.Generator) -> Loss:
        one = usual(step, random)
        if step == 6:  # the loss is finite, its gradient is not
            layer.weight.register_hook(lambda gradient: gradient * math.nan)
        return one

    with pytest.raises(OutpaceError, match=r"weights are no numbers after step 6; a lower learning rate"):
        train([layer], loss, plan, checkpoint)
    state = checkpoint.load()
    assert state is not None and state["step"] == 6 and state["modules"][0]["weight"].isfinite().all()


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"lr": 0.0}, {"lr": math.nan}, {"lr": math.inf}, {"checkpoint_s": -1.0}]
)
def test_plans_out_of_range(options: dict[str, Any]) -> None:
    [(name, value)] = options.items()
    with pytest.raises(OutpaceError, match=rf"{name}={value}.*accepted are"):
        Plan(**{"steps": 5} | options)


def test_what_is_frozen_stays(tmp_path: Path) -> None:
    layer, frozen = model(), torch.nn.Linear(3, 3)
    frozen.requires_grad_(False)
    before = frozen.weight.clone()
    train([layer, frozen], loss_of(layer), Plan(3), Checkpoint(tmp_path, {}))
    assert torch.equal(frozen.weight, before)
