"""Plain sampling, by which drafts are measured: one call of the model a step, a batch at the same step.

Its noise is that of drafted sampling, so that both give the same samples where every draft is exact.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from outpace.diffusion.noise import MOST_AHEAD, PRIOR, Noise, Tape
from outpace.diffusion.process import Model, Process, evaluated
from outpace.diffusion.stats import Stats


def sample_plainly(
    model: Model,
    process: Process,
    noise: Noise,
    shape: tuple[int, ...],
    batch: int,
    conditions: torch.Tensor | None,
    stats: Stats,
    *,
    dtype: torch.dtype,
    device: torch.device,
    on_progress: Callable[[int, int], None] | None,
) -> torch.Tensor:
    """[num, *S]: the samples of a process, batch by batch; counted in `stats`."""
    num, num_steps = len(stats.evaluations), stats.num_steps
    sigmas = process.sigmas.to(device, dtype)
    finished = []
    for begin in range(0, num, batch):
        numbers = torch.arange(begin, min(begin + batch, num), device=device)
        told = None if conditions is None else conditions[begin : begin + batch]
        states = process.prior(noise.normal(numbers, torch.full_like(numbers, PRIOR), shape, dtype=dtype))
        ahead = states.numel() * num_steps <= MOST_AHEAD
        tape = Tape.of(noise, numbers, num_steps, shape, dtype, ahead=ahead)
        for step in range(num_steps):
            steps = torch.full_like(numbers, step)
            outputs = evaluated(model, process, states, steps, told)
            means = process.step(states, process.predict(states, outputs, steps), steps)
            states = means + sigmas[step] * tape.normal(steps[:, None])[:, 0]
            stats.num_calls += 1
            if on_progress is not None:
                on_progress(begin * num_steps + len(numbers) * (step + 1), num * num_steps)
        finished.append(states)
    stats.sequential_calls += num_steps
    stats.evaluations += num_steps
    return torch.cat(finished)
