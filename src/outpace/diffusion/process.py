"""The Markov chain that a sampler runs: N steps, each Gaussian given the state and the model's output there.

    state'  =  step(state, predict(state, output))  +  sigma[n] * standard normal noise

`Denoising` has the chains of denoising models, with tables: any of them is affine in the state and the
predicted clean sample. `Drift` has Euler-Maruyama for a stochastic differential equation with a given drift.
Shapes: B samples, S one sample's shape; steps are i64[B], for every sample has a step of its own.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, checked
from outpace.core.turns import Turns, turns_of
from outpace.diffusion.checks import checked_function, checked_numbers

Model = Callable[..., torch.Tensor]
"""model(inputs [B, *S], times f[B]) -> outputs [B, *S]; with conditions, model(inputs, times, conditions).

Times are of the inputs' precision, f32 at least."""


@runtime_checkable
class Process(Protocol):
    """What a sampler has to know of its chain."""

    @property
    def sigmas(self) -> torch.Tensor:
        """f64[N]: the noise of each step. Only the last may be 0."""

    def prior(self, noise: torch.Tensor) -> torch.Tensor:
        """[B, *S]: the first states, from standard normal noise."""

    def inputs(self, states: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """([B, *S], f[B]): what the model is called with at these states."""

    def predict(self, states: torch.Tensor, outputs: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, *S]: what of the outputs changes slowly from step to step, such as the clean sample."""

    def step(self, states: torch.Tensor, predictions: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, *S]: means of the next states."""


class Denoising:
    """A chain of a denoising model. All tables are f64[N]; `clean` is the predicted clean sample.

    times                   what the model is told of each step
    input_scales            the model's input is input_scale * state
    from_state, from_output clean = from_state * state + from_output * output
    keep, pull              mean of the next state = keep * state + pull * clean
    prior_scale             the first state is prior_scale * noise
    clip                    clean is cut to -clip ... clip, or to nothing if None
    """

    def __init__(
        self,
        *,
        times: Sequence[float],
        sigmas: Sequence[float],
        from_state: Sequence[float],
        from_output: Sequence[float],
        keep: Sequence[float],
        pull: Sequence[float],
        input_scales: Sequence[float] | None = None,
        prior_scale: float = 1.0,
        clip: float | None = None,
    ) -> None:
        clip, prior_scale = accept("clip", clip, float | None), accept("prior_scale", prior_scale, float)
        if not math.isfinite(prior_scale):
            raise OutpaceError(f"prior_scale is {prior_scale}, accepted are finite numbers")
        if clip is not None and not clip > 0:
            raise OutpaceError(f"clip is {clip:g}, accepted are numbers > 0 and None")
        times = checked_numbers("times", times)
        scales = [1.0] * len(times) if input_scales is None else input_scales
        tables = {"times": times, "input_scales": scales, "from_state": from_state}
        tables |= {"from_output": from_output, "keep": keep, "pull": pull}
        self.sigmas = checked_sigmas(sigmas)
        self._tables = {name: _table(name, values, len(self.sigmas)) for name, values in tables.items()}
        self._cast: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}
        self._prior_scale = prior_scale
        self._clip = clip

    def prior(self, noise: torch.Tensor) -> torch.Tensor:
        """[B, *S]: scaled noise."""
        return self._prior_scale * noise

    def inputs(self, states: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """([B, *S], f64[B]): scaled states, times."""
        return self._of("input_scales", states, steps) * states, self._tables["times"].to(steps.device)[steps]

    def predict(self, states: torch.Tensor, outputs: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, *S]: the clean samples."""
        state_part = self._of("from_state", states, steps) * states
        clean = state_part + self._of("from_output", states, steps) * outputs
        return clean if self._clip is None else clean.clamp(-self._clip, self._clip)

    def step(self, states: torch.Tensor, predictions: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, *S]: means of the next states, from the clean samples."""
        return self._of("keep", states, steps) * states + self._of("pull", states, steps) * predictions

    def _of(self, name: str, states: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, 1, ...]: a table's values at these steps."""
        key = (name, states.dtype, steps.device)
        if key not in self._cast:
            self._cast[key] = self._tables[name].to(steps.device, states.dtype)
        return self._cast[key][steps].reshape(-1, *[1] * (states.ndim - 1))


class Drift:
    """Euler-Maruyama for dy = drift(y, t) dt + diffusion(t) dw; the model's output is the drift.

    times        N + 1 numbers, rising or falling all the way; the model is told the first N
    diffusion    of a time: the noise per square root of time, a number >= 0
    prior_scale  the first state is prior_scale * noise
    """

    @checked
    def __init__(
        self, times: Sequence[float], diffusion: Callable[[float], float], *, prior_scale: float = 1.0
    ) -> None:
        times = checked_numbers("times", times)
        checked_function("diffusion", diffusion)
        if not math.isfinite(prior_scale):
            raise OutpaceError(f"prior_scale is {prior_scale}, accepted are finite numbers")
        grid = torch.tensor(times, dtype=torch.float64)
        widths = grid.diff()
        if grid.ndim != 1 or len(grid) < 2 or not (widths.gt(0).all() or widths.lt(0).all()):
            raise OutpaceError(
                "times are not accepted: there have to be two or more, all rising or all falling"
            )
        self._times, self._widths = grid[:-1], widths
        self._prior_scale = prior_scale
        noise = [
            accept(f"diffusion({time:g})", diffusion(time), float) * math.sqrt(abs(width))
            for time, width in zip(times, widths.tolist(), strict=False)
        ]
        self.sigmas = checked_sigmas(noise)

    def prior(self, noise: torch.Tensor) -> torch.Tensor:
        """[B, *S]: scaled noise."""
        return self._prior_scale * noise

    def inputs(self, states: torch.Tensor, steps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """([B, *S], f64[B]): the states themselves, times."""
        return states, self._times.to(steps.device)[steps]

    def predict(self, states: torch.Tensor, outputs: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, *S]: the drift."""
        return outputs

    def step(self, states: torch.Tensor, predictions: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
        """[B, *S]: means of the next states."""
        widths = self._widths.to(steps.device)[steps].to(states.dtype)
        return states + widths.reshape(-1, *[1] * (states.ndim - 1)) * predictions


def evaluated(
    model: Model,
    process: Process,
    states: torch.Tensor,
    steps: torch.Tensor,
    conditions: torch.Tensor | None,
    *,
    name: str = "model",
) -> torch.Tensor:
    """[n, *S]: the model's outputs at states [n, *S] and steps i64[n], or an error that names the step."""
    inputs, times = process.inputs(states, steps)
    # Half precision would round times: two steps would be told the same one.
    told = times.to(torch.promote_types(states.dtype, torch.float32))
    with turns_of_model(model):
        outputs = model(inputs, told) if conditions is None else model(inputs, told, conditions)
        if isinstance(outputs, torch.Tensor):
            outputs = outputs.clone()  # the next thread's call may write where this one has
    if not isinstance(outputs, torch.Tensor) or outputs.shape != states.shape:
        shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        asked = tuple(states.shape)
        raise OutpaceError(
            f"step {int(steps[0])}: the {name}'s output is {shape}, accepted is {asked}, its input's shape"
        )
    finite = outputs.flatten(1).isfinite().all(1)
    if not finite.all():
        step, time = int(steps[~finite][0]), float(times[~finite][0])
        raise OutpaceError(
            f"step {step} of {len(process.sigmas)} (time {time:g}): the {name}'s output is not finite"
        )
    return outputs.to(states.dtype)


def turns_of_model(model: Model) -> Turns:
    """The turns of what a model calls in the end: a method's object, what a partial or a wrapper holds.

    Threads that share a model call it one after another. Nobody waits in a turn for that of another model.
    """
    called: Any = model
    while True:
        if isinstance(called, functools.partial):
            called = called.func
        elif isinstance(called, types.MethodType):
            called = called.__self__
        elif "__wrapped__" in getattr(called, "__dict__", ()):
            called = called.__wrapped__
        else:
            return turns_of(called)


def checked_sigmas(sigmas: Sequence[float]) -> torch.Tensor:
    """f64[N], or an error that names the step which has no noise."""
    table = torch.tensor(checked_numbers("sigmas", sigmas), dtype=torch.float64)
    if not len(table):
        raise OutpaceError("a chain without steps; accepted are 1 step or more")
    bad = ~(torch.isfinite(table) & (table >= 0))
    bad[:-1] |= table[:-1] == 0
    if bad.any():
        step = int(bad.nonzero()[0])
        reason = (
            "sigma has to be > 0, so that a draft of the step can be accepted (only the last step may have 0)"
        )
        raise OutpaceError(f"step {step} of {len(table)} has sigma {table[step].item():g}: {reason}")
    return table


def _table(name: str, values: Sequence[float], num_steps: int) -> torch.Tensor:
    table = torch.tensor(checked_numbers(name, values), dtype=torch.float64)
    if table.shape != (num_steps,):
        raise OutpaceError(
            f"{name} has {table.numel()} values, sigmas {num_steps}; one for each step is accepted"
        )
    if not torch.isfinite(table).all():
        step = int((~torch.isfinite(table)).nonzero()[0])
        raise OutpaceError(f"{name} at step {step} is {table[step].item()}, accepted are finite numbers")
    return table
