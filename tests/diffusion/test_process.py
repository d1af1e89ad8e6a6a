"""Every chain, state by state, against one in numpy that knows none of its formulas; refusals in one line.

The steps of variance-preserving and -exploding diffusions and of the linear interpolant are integrated from
their reverse stochastic differential equations with churn,

    dx = (f x - (1 + churn^2) / 2 g^2 score) dt + churn g dw,    score = (alpha clean - x) / sigma^2,

whose moments obey ordinary ones while `clean` is held; those of a discrete schedule are Ho, Jain & Abbeel's
posterior from its betas, or DDIM's with eta (Song, Meng & Ermon 2020, arXiv:2010.02502).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from outpace import diffusion
from outpace.core.errors import OutpaceError
from outpace.diffusion import Denoising, Drift, Levels, chain, ddpm_levels, sample
from outpace.diffusion.noise import PRIOR, Noise

STEPS, NUM, SEED = 8, 12, 5
MEANS = np.array([[1.0, -2.0], [0.5, 1.5], [-2.0, 0.0]])
WEIGHTS, WIDTH = np.array([1.0, 2.0, 5.0]) / 8, 0.3
BETA_MIN, BETA_MAX = 0.1, 20.0
BETAS = np.linspace(1e-3, 0.1, 60)
PRODUCTS: Any = np.cumprod(1 - BETAS)
TIMESTEPS = [59, 50, 41, 33, 20, 11, 3, 0]

Row = tuple[float, float, float]
"""(of the state, of the clean sample, sigma) in a step."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def clean_of(x: np.ndarray, alpha: float, sigma: float) -> np.ndarray:
    """[n, 2]: the expected clean samples of a mixture, by the gradient of the states' density."""
    if alpha == 0:
        return np.tile(WEIGHTS @ MEANS, (len(x), 1))
    variance = (alpha * WIDTH) ** 2 + sigma**2
    gaps = alpha * MEANS - x[:, None]
    parts = WEIGHTS * np.exp(-(gaps**2).sum(2) / (2 * variance))
    score = (parts[..., None] * gaps).sum(1) / parts.sum(1, keepdims=True) / variance
    return (x + sigma**2 * score) / alpha


OUTPUTS: dict[str, Callable[..., np.ndarray]] = {
    "epsilon": lambda x, clean, alpha, sigma: (x - alpha * clean) / sigma,
    "sample": lambda x, clean, alpha, sigma: clean,
    "v_prediction": lambda x, clean, alpha, sigma: alpha * (x - alpha * clean) / sigma - sigma * clean,
    "flow_prediction": lambda x, clean, alpha, sigma: (x - alpha * clean) / sigma - clean,
}
"""What a model says, by the definitions; v's is that of alpha^2 + sigma^2 = 1."""


class Twin:
    """A process in numpy: its levels at times, and f and g^2 of dx = f x dt + g dw where it has them."""

    def __init__(
        self, levels: Levels, level_at: Callable[[float], Any], f: Any = None, g2: Any = None
    ) -> None:
        self.levels, self.level_at, self.f, self.g2 = levels, level_at, f, g2
        self.pairs = list(zip(levels.alphas, levels.sigmas, strict=True))

    def row(self, step: int, churn: float) -> Row:
        """The moments of a step, integrated over 400 intervals in equal ratios of the time (Runge-Kutta)."""
        alpha1 = self.pairs[step + 1][0]
        if self.pairs[step + 1][1] == 0:
            return 0.0, alpha1, 0.0
        if self.pairs[step][0] == 0:  # f has no limit there; noise alone tells nothing, and all of it goes
            return 0.0, alpha1, self.pairs[step + 1][1]
        times = np.geomspace(self.levels.times[step], self.levels.times[step + 1], 401)

        def slopes(t: float, moments: np.ndarray) -> np.ndarray:
            alpha, sigma = self.level_at(t)
            pull = (1 + churn**2) / 2 * self.g2(t) / sigma**2
            keep, clean, variance = moments
            rate = self.f(t) + pull
            return np.array(
                [rate * keep, rate * clean - pull * alpha, 2 * rate * variance - churn**2 * self.g2(t)]
            )

        moments = np.array([1.0, 0.0, 0.0])
        for t, after in itertools.pairwise(times):
            h = after - t
            k1 = slopes(t, moments)
            k2 = slopes(t + h / 2, moments + h / 2 * k1)
            k3 = slopes(t + h / 2, moments + h / 2 * k2)
            moments = moments + h / 6 * (k1 + 2 * k2 + 2 * k3 + slopes(after, moments + h * k3))
        return moments[0], moments[1], math.sqrt(moments[2])


class Discrete(Twin):
    """A discrete schedule: churn 1 is the posterior of the forward chain, others are DDIM's with eta."""

    def row(self, step: int, churn: float) -> Row:
        now = PRODUCTS[TIMESTEPS[step]]
        after = PRODUCTS[TIMESTEPS[step + 1]] if step + 1 < STEPS else 1.0
        beta = 1 - now / after
        if churn == 1:
            clean, keep = math.sqrt(after) * beta / (1 - now), math.sqrt(1 - beta) * (1 - after) / (1 - now)
            return keep, clean, math.sqrt((1 - after) / (1 - now) * beta)
        ratio = now * (1 - after) / (after * (1 - now))
        eta = math.sqrt((1 - ratio ** (churn**2)) / (1 - ratio))
        sigma = eta * math.sqrt((1 - after) / (1 - now)) * math.sqrt(1 - now / after)
        keep = math.sqrt(1 - after - sigma**2) / math.sqrt(1 - now)
        return keep, math.sqrt(after) - keep * math.sqrt(now), sigma


def preserving(t: float) -> tuple[float, float]:
    alpha = math.exp(-0.5 * (t * BETA_MIN + t * t / 2 * (BETA_MAX - BETA_MIN)))
    return alpha, math.sqrt(1 - alpha**2)


def beta(t: float) -> float:
    return BETA_MIN + t * (BETA_MAX - BETA_MIN)


TWINS = {
    "vp": Twin(
        diffusion.variance_preserving(STEPS, last=0.02), preserving, lambda t: -beta(t) / 2, lambda t: beta(t)
    ),
    "ve": Twin(
        diffusion.variance_exploding(STEPS, sigma_min=0.1, sigma_max=20),
        lambda t: (1.0, t), lambda t: 0.0, lambda t: 2 * t,
    ),
    "linear": Twin(
        diffusion.linear_interpolant(STEPS),
        lambda t: (1 - t, t), lambda t: -1 / (1 - t), lambda t: 2 * t / (1 - t),
    ),
    "ddpm": Discrete(
        ddpm_levels(PRODUCTS, TIMESTEPS),
        lambda t: (math.sqrt(PRODUCTS[round(t)]), math.sqrt(1 - PRODUCTS[round(t)])),
    ),
}  # fmt: skip


def noise_of(step: int) -> np.ndarray:
    numbers = torch.arange(NUM)
    return Noise(SEED).normal(numbers, torch.full((NUM,), step), (2,), dtype=torch.float64).numpy()


def path_of(twin: Twin, churn: float, *, clip: float | None = None) -> np.ndarray:
    """[STEPS + 1, NUM, 2]: the chain's states, one step after another."""
    states = [math.hypot(*twin.pairs[0]) * noise_of(PRIOR)]
    for step in range(STEPS):
        clean = clean_of(states[-1], *twin.pairs[step])
        clean = clean if clip is None else clean.clip(-clip, clip)
        keep, pull, sigma = twin.row(step, churn)
        states.append(keep * states[-1] + pull * clean + sigma * noise_of(step))
    return np.array(states)


def sampled_path(
    twin: Twin, process: Denoising, prediction: str, scales: list[float] | None = None
) -> np.ndarray:
    """The same of plain sampling, from what its model is called with: one call a step, all samples."""
    seen: list[np.ndarray] = []

    def model(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        step = len(seen)
        assert times.tolist() == pytest.approx([twin.levels.times[step]] * NUM, abs=1e-12)
        x = inputs.numpy() / (1.0 if scales is None else scales[step])
        seen.append(x)
        alpha, sigma = twin.level_at(float(times[0]))
        return torch.from_numpy(OUTPUTS[prediction](x, clean_of(x, alpha, sigma), alpha, sigma))

    result = sample(model, process, (2,), NUM, seed=SEED, dtype=torch.float64)
    return np.array([*seen, result.samples.numpy()])


@pytest.mark.parametrize("churn", [0.5, 1.0, 1.5])
@pytest.mark.parametrize(
    ("name", "prediction"),
    [
        ("vp", "epsilon"),
        ("vp", "v_prediction"),
        ("ve", "sample"),
        ("ve", "epsilon"),
        ("linear", "flow_prediction"),
        ("linear", "sample"),
        ("ddpm", "epsilon"),
        ("ddpm", "v_prediction"),
    ],
)
def test_plain_sampling_is_the_twins_chain(name: str, prediction: str, churn: float) -> None:
    twin = TWINS[name]
    path = sampled_path(twin, chain(twin.levels, prediction=prediction, churn=churn), prediction)
    np.testing.assert_allclose(path, path_of(twin, churn), rtol=1e-5, atol=1e-5)
    other = path_of(twin, churn + 0.05)
    assert np.abs(path - other).max() > 1e-2, "a little more churn is another chain"


def test_scaled_inputs_and_a_bound() -> None:
    twin = TWINS["ve"]
    scales = [1 / math.hypot(1, sigma) for sigma in twin.levels.times]
    process = chain(twin.levels, clip=1.2, input_scales=scales)
    path = sampled_path(twin, process, "epsilon", scales)
    np.testing.assert_allclose(path, path_of(twin, 1.0, clip=1.2), rtol=1e-5, atol=1e-5)
    assert np.abs(path - path_of(twin, 1.0)).max() > 0.1 and np.abs(path[-1]).max() == pytest.approx(1.2)


@pytest.mark.parametrize("times", [[0.0, 0.1, 0.3, 0.35, 0.8, 1.5], [2.0, 1.1, 1.0, 0.4, 0.0]])
def test_a_drift_goes_by_euler_and_maruyama(times: list[float]) -> None:
    """Of dy = (y - y^3 + t) dt + (0.4 + t / 2) dw, forwards and backwards in time."""

    def drift(y: Any, t: Any) -> Any:
        return y - y**3 + t

    def model(inputs: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return drift(inputs, told[:, None])

    process = Drift(times, lambda t: 0.4 + t / 2, prior_scale=0.7)
    y = 0.7 * noise_of(PRIOR)
    for step, (t, after) in enumerate(itertools.pairwise(times)):
        y = y + drift(y, t) * (after - t) + (0.4 + t / 2) * math.sqrt(abs(after - t)) * noise_of(step)
    result = sample(model, process, (2,), NUM, seed=SEED, dtype=torch.float64)
    np.testing.assert_allclose(result.samples.numpy(), y, rtol=1e-10, atol=1e-10)


def test_levels_are_those_of_their_diffusions() -> None:
    for name, twin in TWINS.items():
        for step, time in enumerate(twin.levels.times):
            assert twin.level_at(time) == pytest.approx(twin.pairs[step], abs=1e-12), (name, step)
        assert twin.pairs[-1] == pytest.approx((1, 0))
    assert diffusion.variance_preserving(5).times == pytest.approx([1, 0.75025, 0.5005, 0.25075, 0.001])
    sigmas = diffusion.variance_exploding(4, sigma_min=0.5, sigma_max=4).times
    assert sigmas == pytest.approx([4, 2, 1, 0.5])
    assert diffusion.linear_interpolant(4).times == (1, 0.75, 0.5, 0.25)


# --- bad input ----------------------------------------------------------------------------------------------

LEVELS = Levels([0.5, 0.8, 1.0], [1.0, 0.5, 0.0], [2.0, 1.0])


def tables(**changed: Any) -> Denoising:
    given = {
        name: [1.0, 1.0, 1.0] for name in ("times", "sigmas", "from_state", "from_output", "keep", "pull")
    }
    return Denoising(**given | changed)


BAD: list[tuple[Callable[[], object], str]] = [
    (lambda: tables(sigmas=[1, 0, 0]), r"step 1 of 3 has sigma 0: .*only the last step may have 0"),
    (lambda: tables(sigmas=[1, -1, 1]), r"step 1 of 3 has sigma -1: sigma has to be > 0"),
    (lambda: tables(sigmas=[1, 1, math.nan]), r"step 2 of 3 has sigma nan"),
    (lambda: tables(sigmas=[]), "a chain without steps; accepted are 1 step or more"),
    (lambda: tables(keep=[1, 1]), "keep has 2 values, sigmas 3; one for each step is accepted"),
    (lambda: tables(sigmas=[1, 1]), "times has 3 values, sigmas 2; one for each step is accepted"),
    (lambda: tables(input_scales=[1]), "input_scales has 1 values, sigmas 3"),
    (lambda: tables(pull=[1, math.inf, 1]), "pull at step 1 is inf, accepted are finite numbers"),
    (lambda: tables(clip=0), "clip is 0, accepted are numbers > 0 and None"),
    (lambda: tables(clip=math.nan), "clip is nan, accepted are numbers and None"),
    (lambda: Levels([1], [1], []), "1 alphas, 1 sigmas and 0 times do not fit; accepted are N"),
    (lambda: Levels([1, 1, 1], [2, 1, 0], [1]), "3 alphas, 3 sigmas and 1 times do not fit"),
    (
        lambda: Levels([1, 1, 1], [2, 2, 0], [1, 0]),
        "step 0 goes from noise 2 at scale 1 to 2 at 1; accepted is l",
    ),
    (
        lambda: Levels([1, 1, 1], [2, 1, 3], [1, 0]),
        "step 1 goes from noise 1 at scale 1 to 3 at 1; accepted is l",
    ),
    (lambda: Levels([1, 1, 1], [2, 0, 0], [1, 0]), "step 1 goes from noise 0 .*none only at the end"),
    (lambda: Levels([1, 0, 1], [2, 1, 0], [1, 0]), "step 0 goes from noise 2 at scale 1 to 1 at 0"),
    (lambda: Levels([1, 1, 1], [2, math.nan, 0], [1, 0]), "step 0 goes from noise 2 at scale 1 to nan"),
    (lambda: chain(LEVELS, prediction="noise"), "prediction is 'noise', accepted are epsilon, sample, v_p"),
    (lambda: chain(LEVELS, churn=0), r"churn is 0, accepted are finite numbers > 0 \(without churn there is"),
    (lambda: chain(LEVELS, churn=math.inf), "churn is inf, accepted are finite numbers > 0"),
    (lambda: chain(LEVELS, churn=1e-9), "step 0 of 2 has sigma 0: sigma has to be > 0"),
    (lambda: chain(LEVELS, sigmas=[1.0]), "times has 2 values, sigmas 1; one for each step is accepted"),
    (lambda: chain(LEVELS, sigmas=[0.0, 1.0]), "step 0 of 2 has sigma 0: sigma has to be > 0"),
    (
        lambda: chain(diffusion.linear_interpolant(3)),
        "step 0 has alpha 0: .*; accepted is another prediction",
    ),
    (lambda: diffusion.variance_preserving(0), "the number of steps is 0, accepted are whole numbers from 1"),
    (
        lambda: diffusion.variance_exploding(-1),
        "the number of steps is -1, accepted are whole numbers from",
    ),
    (lambda: diffusion.linear_interpolant(0), "the number of steps is 0, accepted are whole numbers from 1"),
    (lambda: diffusion.variance_exploding(5, sigma_min=0), "sigma_min is 0, accepted are finite numbers > 0"),
    (
        lambda: diffusion.variance_exploding(5, sigma_max=0.01),
        "sigma_max is 0.01, accepted are finite numbers > sigma_min 0.01",
    ),
    (lambda: diffusion.variance_preserving(5, last=1.0), "step 0 goes from noise"),
    (
        lambda: diffusion.variance_preserving(5, beta_min=-9, beta_max=-1),
        r"beta_min is -9, accepted are finite numbers >= 0",
    ),
    (lambda: ddpm_levels([0.9, 1.2], [1, 0]), r"step 0 has alpha\^2 1.2, accepted are numbers from 0 to 1"),
    (lambda: ddpm_levels([0.9, 0.5], [2, 0]), "timestep 2 is not in the schedule, accepted are 0 to 1"),
    (lambda: ddpm_levels([0.9, 0.5], [1, -2]), "timestep -2 is not in the schedule, accepted are 0 to 1"),
    (lambda: ddpm_levels([0.9, 0.5], [0, 1]), "step 0 goes from noise"),
    (lambda: ddpm_levels([0.9, 0.5], []), "1 alphas, 1 sigmas and 0 times do not fit"),
    (lambda: Drift([1.0], lambda t: 1.0), "times are not accepted: there have to be two or more, all rising"),
    (lambda: Drift([0, 1, 0.5], lambda t: 1.0), "times are not accepted: .*all rising or all falling"),
    (lambda: Drift([0, math.nan], lambda t: 1.0), "times are not accepted"),
    (lambda: Drift([0, 1, 2], lambda t: t), "step 0 of 2 has sigma 0: sigma has to be > 0"),
    (lambda: Drift([0, 1, 2], lambda t: -1.0), "step 0 of 2 has sigma -1: sigma has to be > 0"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[str(index) for index in range(len(BAD))])
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OutpaceError, match=f"^{message}") as error:
        make()
    assert "\n" not in str(error.value)


def test_a_last_step_without_noise_is_accepted() -> None:
    assert tables(sigmas=[1, 1, 0]).sigmas.tolist() == [1, 1, 0]
    assert Drift([2, 1, 0.5, 0], lambda t: t - 0.5).sigmas[-1] == 0
