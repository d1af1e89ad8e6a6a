"""The one training loop: a loss for every step, AdamW, warm-up and cosine, checkpoints, exact resumption.

A step's batch and random numbers are functions of (seed, step) alone, so that a run that was killed and one
that was not give the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.pricing import clock
from outpace.progress import Progress
from outpace.train.checkpoint import STATE, Checkpoint

NUM_SEEDS = 1 << 32
LOSSES = 200  # points of the loss curve that run.json holds
CLIP = 1.0  # largest norm of the gradients


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how fast: `steps` at a learning rate that warms up to `lr` and falls to 0 as a cosine."""

    steps: int
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    seed: int = 0
    checkpoint_s: float = 120.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lr < math.inf or not self.checkpoint_s >= 0:
            raise OutpaceError(
                f"a training has steps={self.steps}, lr={self.lr} and checkpoint_s={self.checkpoint_s}, "
                "accepted are whole numbers >= 1, finite numbers > 0 and numbers >= 0"
            )
        if not 0 <= self.seed < NUM_SEEDS:
            raise OutpaceError(f"a training has seed={self.seed}, accepted are 0 to {NUM_SEEDS - 1}")

    @property
    def warm_steps(self) -> int:
        """How many steps the learning rate rises for."""
        return max(1, round(self.warmup * self.steps))

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        warm = self.warm_steps
        if step < warm:
            return self.lr * (step + 1) / warm
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, self.steps - warm)))


@dataclass(frozen=True, slots=True)
class Loss:
    """Of one step: the value to descend, and how many tokens it is of."""

    value: Tensor
    num_tokens: int


def train(
    modules: Sequence[torch.nn.Module],
    loss: Callable[[int, torch.Generator], Loss],
    plan: Plan,
    checkpoint: Checkpoint,
    *,
    rates: Sequence[Callable[[int], float]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train the modules' parameters to the end of the plan, from where the checkpoint stands.

    `loss(step, random)` is of one batch. A loss or a weight that is no number ends the training with an
    OutpaceError; the checkpoint stays as it was.

    rates  a learning rate of a step for each module; None: the plan's for all.
    """
    rates = [plan.rate] * len(modules) if rates is None else rates
    groups = [{"params": [p for p in module.parameters() if p.requires_grad]} for module in modules]
    parameters = [parameter for group in groups for parameter in group["params"]]
    # Fused: one pass over the memory, a quarter of the optimizer's time.
    optimizer = torch.optim.AdamW(
        groups, lr=plan.lr, weight_decay=plan.weight_decay, betas=(0.9, 0.98), fused=True
    )
    first = _restore(modules, optimizer, checkpoint, plan)
    curve: list[list[float]] = checkpoint.run["losses"]
    before, began, saved = checkpoint.run["seconds"], clock.now(), clock.now()
    every, total, count, tokens = max(1, plan.steps // LOSSES), 0.0, 0, 0
    for step in range(first, plan.steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate(step)
        one = loss(step, torch.Generator().manual_seed(plan.seed * 1_000_003 + step))
        value = float(one.value.detach())
        if not math.isfinite(value):
            raise OutpaceError(
                f"the loss of step {step} is {value}; a lower learning rate than {plan.lr} helps"
            )
        optimizer.zero_grad(set_to_none=True)
        one.value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        total, count, tokens = total + value, count + 1, tokens + one.num_tokens
        now = clock.now()
        if (step + 1) % every == 0:
            curve.append([step + 1, round(total / count, 4)])
            total, count = 0.0, 0
        if progress is not None:
            shown = curve[-1][1] if curve else value
            progress(step + 1, plan.steps, f"loss {shown:.3f}, {tokens / (now - began):.0f} tokens/s")
        if step + 1 == plan.steps or now - saved >= plan.checkpoint_s:
            if not all(parameter.isfinite().all() for parameter in parameters):
                raise OutpaceError(
                    f"weights are no numbers after step {step}; a lower learning rate than {plan.lr} helps"
                )
            state = {"step": step + 1, "modules": [m.state_dict() for m in modules]}
            state["optimizer"] = optimizer.state_dict()
            checkpoint.save(state, steps_done=step + 1, seconds=before + now - began, losses=curve)
            saved = now


def _restore(
    modules: Sequence[torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    checkpoint: Checkpoint,
    plan: Plan,
) -> int:
    """Take up the latest state; the number of the next step."""
    state: dict[str, Any] | None = checkpoint.load()
    if state is None:
        return 0
    try:
        step: int = state["step"]
        if type(step) is not int or not 1 <= step <= plan.steps:
            raise ValueError(f"step {step!r} is none of 1 to {plan.steps}")
        for module, weights in zip(modules, state["modules"], strict=True):
            for name, value in module.state_dict().items():
                _check_like(name, weights[name], value)
            module.load_state_dict(weights)
        _restore_optimizer(optimizer, state["optimizer"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        path = checkpoint.folder / STATE
        raise OutpaceError(
            f"{path} holds no state of this training ({error}); remove it to begin anew"
        ) from None
    # Points of the curve that are later than the state belong to steps that will be made again.
    curve = [point for point in checkpoint.run["losses"] if point[0] <= step]
    checkpoint.run["losses"] = curve
    return step


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The moments of its parameters; its options are those of the plan, whatever the state says."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not state["state"]:
        raise ValueError("the optimizer has no moments")
    for index, moments in state["state"].items():
        if moments.keys() != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"the optimizer has {', '.join(map(str, moments))}")
        _check_like("step", moments["step"], torch.tensor(0.0))
        for name in ("exp_avg", "exp_avg_sq"):
            _check_like(name, moments[name], parameters[index])
    options = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    groups = [saved | mine for saved, mine in zip(state["param_groups"], options, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


def _check_like(name: str, found: Any, wanted: Tensor) -> None:
    """ValueError where a tensor of a state is not what the training would have saved."""
    alike = isinstance(found, Tensor) and found.layout == torch.strided and found.device.type == "cpu"
    if not alike or (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise ValueError(f"{name} is no tensor {wanted.dtype} {tuple(wanted.shape)}")
    if not found.isfinite().all():
        raise ValueError(f"{name} holds numbers that are none")
