"""What drafts and windows bring on this machine: calls, seconds beside plain sampling, price of a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median

import numpy as np
import torch

from outpace.core.options import checked, whole
from outpace.diffusion.checks import MOST, enough_memory
from outpace.diffusion.drafts import Draft
from outpace.diffusion.names import make_draft, make_window
from outpace.diffusion.noise import PRIOR, Noise
from outpace.diffusion.process import turns_of_model
from outpace.diffusion.sampler import sample
from outpace.diffusion.sources import Source
from outpace.diffusion.stats import Stats
from outpace.diffusion.windows import Window
from outpace.pricing.clock import in_turns

SIZES = (1, 2, 4, 8, 16)
LEAST_BASE = 0.01  # of a call's time; what is fitted to a call without states is noise below that


@dataclass(frozen=True, slots=True)
class Method:
    """A draft and a window by their names; the draft `none` is plain sampling."""

    draft: str
    window: str

    def make(self) -> tuple[Draft | None, Window]:
        """The objects."""
        return make_draft(self.draft), make_window(self.window)


PLAIN = Method("none", "1")


@dataclass(frozen=True, slots=True)
class Measured:
    """A method's costs, the same in every repeat but for the seconds: their median."""

    method: Method
    stats: Stats
    wall_s: float


@checked
def measure(
    source: Source,
    methods: Sequence[Method],
    *,
    num: int,
    seed: int,
    batch: int | None,
    repeats: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Measured]:
    """Plain sampling and these methods, in turns: one of each, and that `repeats` times."""
    repeats = whole("repeats", repeats, 1, MOST)
    made = [(method, *method.make()) for method in [PLAIN, *methods]]
    runs: list[list[Stats]] = [[] for _ in made]
    num_runs = len(made) * repeats
    for index in range(num_runs):
        _, draft, window = made[index % len(made)]

        def told(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(index * total + done, num_runs * total)  # noqa: B023

        result = sample(
            source.model, source.process, source.shape, num, draft=draft, window=window, seed=seed,
            batch=batch, device=source.device, on_progress=told,
        )  # fmt: skip
        runs[index % len(made)].append(result.stats)
    return [
        Measured(method, stats[0], median(one.wall_s for one in stats))
        for (method, *_), stats in zip(made, runs, strict=True)
    ]


@torch.no_grad()
def call_times(source: Source, *, repeats: int, sizes: Sequence[int] = SIZES) -> dict[int, float]:
    """Seconds of a call of so many states at the chain's middle: medians, all sizes in turns."""
    largest = max(sizes)
    numbers = torch.arange(largest, device=source.device)
    noise = Noise(0).normal(numbers, torch.full_like(numbers, PRIOR), source.shape, dtype=torch.float32)
    steps = torch.full_like(numbers, len(source.process.sigmas) // 2)
    inputs, times = source.process.inputs(noise, steps)

    def call(size: int) -> None:
        with enough_memory(f"a call of {size} states"), turns_of_model(source.model):
            source.model(inputs[:size], times[:size].to(inputs.dtype))
            if source.device.type == "cuda":
                torch.cuda.synchronize(source.device)

    runs = [partial(call, size) for size in sizes]
    in_turns(runs, rounds=1)  # warms up
    return dict(zip(sizes, in_turns(runs, rounds=repeats), strict=True))


def fitted_price(times: dict[int, float], *, batch: int = 1) -> float:
    """`Adaptive`'s price: one more step of `batch` samples, as a share of a call without any state.

    A straight line through the times of calls, by least squares of the relative errors.
    """
    sizes = np.array(list(times), dtype=float)
    seconds = np.array(list(times.values()))
    columns = np.stack([np.ones_like(sizes), sizes], 1) / seconds[:, None]
    (base, slope), *_ = np.linalg.lstsq(columns, np.ones_like(sizes), rcond=None)
    return float(batch * max(slope, 0.0) / max(base, LEAST_BASE * seconds[0]))
