"""Schedules of denoising models, and the one stochastic chain that they all share.

A model knows states alpha * clean + sigma * noise at levels 0 ... N of falling noise. If the predicted clean
sample is taken for constant from level n to n + 1, the reverse stochastic differential equation with churn
has an exact solution, which is the step (with r = (sigma' / alpha') / (sigma / alpha), primes for n + 1):

    state' = alpha' clean + sigma' (rho (state - alpha clean) / sigma + sqrt(1 - rho^2) z)
    rho    = r^(churn^2)

Churn 1 is DDPM (Ho, Jain & Abbeel 2020, arXiv:2006.11239), the ancestral Euler sampler, and the first order
of SDE-DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), which are the same step. Churn towards 0 is DDIM,
which has no noise and nothing to speculate on; more churn makes drafts easier to accept. The `Levels` of
variance-preserving and -exploding diffusions are from Song et al. 2021, arXiv:2011.13456, those of the linear
interpolant from Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, checked
from outpace.diffusion.checks import checked_numbers, checked_part, checked_steps
from outpace.diffusion.process import Denoising

PREDICTIONS: dict[str, Callable[[float, float], tuple[float, float]]] = {
    "epsilon": lambda alpha, sigma: (1 / alpha, -sigma / alpha),
    "sample": lambda alpha, sigma: (0.0, 1.0),
    "v_prediction": lambda alpha, sigma: (
        alpha / (alpha**2 + sigma**2),
        -sigma / math.hypot(alpha, sigma),
    ),
    "flow_prediction": lambda alpha, sigma: (1 / (alpha + sigma), -sigma / (alpha + sigma)),
}
"""What a model's output is: (of the state, of the output) in the clean sample, at (alpha, sigma)."""


@dataclass(frozen=True, slots=True)
class Levels:
    """N + 1 levels of noise, the last one mostly without any, and the N times that the model is told."""

    alphas: Sequence[float]
    sigmas: Sequence[float]
    times: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("alphas", "sigmas", "times"):
            object.__setattr__(self, name, checked_numbers(name, getattr(self, name)))
        if not len(self.alphas) == len(self.sigmas) == len(self.times) + 1 >= 2:
            lengths = f"{len(self.alphas)} alphas, {len(self.sigmas)} sigmas and {len(self.times)} times"
            raise OutpaceError(f"{lengths} do not fit; accepted are N + 1, N + 1 and N >= 1")
        for step, (alpha, sigma, alpha1, sigma1) in enumerate(
            zip(self.alphas, self.sigmas, self.alphas[1:], self.sigmas[1:], strict=False)
        ):
            if not (
                alpha >= 0 and alpha1 > 0 and sigma > 0 and 0 <= sigma1 / alpha1 < sigma / max(alpha, 1e-300)
            ):
                raise OutpaceError(
                    f"step {step} goes from noise {sigma:g} at scale {alpha:g} to {sigma1:g} at {alpha1:g};"
                    " accepted is less noise for the scale at every step, and none only at the end"
                )


@checked
def variance_preserving(
    num_steps: int, *, beta_min: float = 0.1, beta_max: float = 20.0, first: float = 1.0, last: float = 1e-3
) -> Levels:
    """alpha^2 + sigma^2 = 1 with beta(t) from beta_min to beta_max; times from `first` to `last`, then 0."""
    given = {"beta_min": beta_min, "beta_max": beta_max, "first": first, "last": last}
    for name, value in given.items():
        if not 0 <= value < math.inf:
            raise OutpaceError(f"{name} is {value:g}, accepted are finite numbers >= 0")
    times = [*_line(first, last, num_steps), 0.0]
    squares = [math.exp(-0.5 * t * t * (beta_max - beta_min) - t * beta_min) for t in times]
    return _preserving(squares, times[:-1])


@checked
def variance_exploding(num_steps: int, *, sigma_min: float = 0.01, sigma_max: float = 50.0) -> Levels:
    """alpha = 1, noise in equal ratios from sigma_max to sigma_min, then none; the model is told sigma."""
    if not 0 < sigma_min < math.inf:
        raise OutpaceError(f"sigma_min is {sigma_min:g}, accepted are finite numbers > 0")
    if not sigma_min < sigma_max < math.inf:
        raise OutpaceError(
            f"sigma_max is {sigma_max:g}, accepted are finite numbers > sigma_min {sigma_min:g}"
        )
    sigmas = [math.exp(x) for x in _line(math.log(sigma_max), math.log(sigma_min), num_steps)]
    return Levels([1.0] * (len(sigmas) + 1), [*sigmas, 0.0], sigmas)


def linear_interpolant(num_steps: int) -> Levels:
    """state = (1 - t) clean + t noise, t from 1 to 0 in equal steps; the model is told t."""
    num_steps = checked_steps(num_steps)
    times = [1 - step / num_steps for step in range(num_steps + 1)]
    return Levels([1 - t for t in times], times, times[:-1])


def ddpm_levels(alphas_cumprod: Sequence[float], timesteps: Sequence[int]) -> Levels:
    """Of a discrete schedule at falling timesteps, then no noise; the model is told the timestep."""
    alphas_cumprod = checked_numbers("alphas_cumprod", alphas_cumprod)
    timesteps = accept("timesteps", timesteps, Sequence[int])
    num = len(alphas_cumprod)
    for time in timesteps:
        if not 0 <= time < num:
            raise OutpaceError(f"timestep {time} is not in the schedule, accepted are 0 to {num - 1}")
    return _preserving([*(float(alphas_cumprod[time]) for time in timesteps), 1.0], list(timesteps))


@checked
def chain(
    levels: Levels,
    *,
    prediction: str = "epsilon",
    churn: float = 1.0,
    clip: float | None = None,
    sigmas: Sequence[float] | None = None,
    input_scales: Sequence[float] | None = None,
    prior_scale: float | None = None,
) -> Denoising:
    """The stochastic chain of a model with these levels.

    prediction   what the model's output is, one of `PREDICTIONS`, in diffusers' words.
    churn        > 0; how much noise is taken out and put in anew, 1 being the usual amount.
    clip         bound of the predicted clean sample, or None.
    sigmas       of the steps, where a sampler puts in another amount of noise than this chain.
    prior_scale  of the first noise; by default sqrt(alpha^2 + sigma^2) of the first level with clean data of
                 unit variance.
    """
    checked_part("levels", levels, Levels, "those of variance_preserving(50)")
    if prediction not in PREDICTIONS:
        raise OutpaceError(f"prediction is {prediction!r}, accepted are {', '.join(PREDICTIONS)}")
    if not 0 < churn < math.inf:
        hint = "without churn there is no noise, and no draft could be accepted"
        raise OutpaceError(f"churn is {churn:g}, accepted are finite numbers > 0 ({hint})")
    if prediction == "epsilon" and levels.alphas[0] == 0:
        raise OutpaceError(
            "step 0 has alpha 0: noise tells nothing of the sample; accepted is another prediction"
        )
    try:
        return _chain(levels, prediction, churn, clip, sigmas, input_scales, prior_scale)
    except (ArithmeticError, ValueError) as error:
        if isinstance(error, OutpaceError):
            raise
        raise OutpaceError(f"alphas and sigmas are too large or small to compute with: {error}") from error


def _chain(
    levels: Levels,
    prediction: str,
    churn: float,
    clip: float | None,
    sigmas: Sequence[float] | None,
    input_scales: Sequence[float] | None,
    prior_scale: float | None,
) -> Denoising:
    keep, pull, noise = [], [], []
    pairs = list(zip(levels.alphas, levels.sigmas, strict=True))
    for (alpha, sigma), (alpha1, sigma1) in itertools.pairwise(pairs):
        rho = (sigma1 * alpha / (sigma * alpha1)) ** (churn * churn)
        keep.append(sigma1 * rho / sigma)
        pull.append(alpha1 - alpha * keep[-1])
        noise.append(sigma1 * math.sqrt(1 - rho * rho))
    parts = [PREDICTIONS[prediction](alpha, sigma) for alpha, sigma in pairs[:-1]]
    return Denoising(
        times=levels.times,
        sigmas=noise if sigmas is None else sigmas,
        from_state=[state for state, _ in parts],
        from_output=[output for _, output in parts],
        keep=keep,
        pull=pull,
        input_scales=input_scales,
        prior_scale=math.hypot(*pairs[0]) if prior_scale is None else prior_scale,
        clip=clip,
    )


def _preserving(squares: Sequence[float], times: Sequence[float]) -> Levels:
    """alpha^2 + sigma^2 = 1, by alpha^2."""
    for step, square in enumerate(squares):
        if not 0 <= square <= 1:
            raise OutpaceError(f"step {step} has alpha^2 {square:g}, accepted are numbers from 0 to 1")
    return Levels([math.sqrt(x) for x in squares], [math.sqrt(1 - x) for x in squares], times)


def _line(first: float, last: float, num: int) -> list[float]:
    """`num` numbers in equal steps."""
    num = checked_steps(num)
    return [first + (last - first) * step / max(1, num - 1) for step in range(num)]
