"""Whole chains: every draft and window keeps plain sampling's law, wrong couplings and drafts do not.

A mixture's samples are compared with plain sampling of another seed, by their distribution functions along
directions and circles. A Gaussian's chain is affine, so its law is known: N(mean, spread^2 I) by a recursion.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from outpace.diffusion.process import Process

pytest.importorskip("torch")

import torch

from outpace import diffusion
from outpace.diffusion import (
    Adaptive,
    Carried,
    Drift,
    Frozen,
    GaussianMixture,
    Increment,
    Independent,
    Output,
    Picard,
    Prediction,
    Stale,
    chain,
    sample,
)
from outpace.diffusion.memory import Proposal, Round
from tests.diffusion.couplings import WRONG
from tests.laws import FALSE_ALARM_RATE, ks_test, ks_two_samples, normal

NUM = 5000
MIXTURE = GaussianMixture(torch.tensor([[1.0, -2.0], [0.5, 1.5], [-2.0, 0.0]]), 0.3, [1.0, 2.0, 5.0])
LEVELS = diffusion.variance_preserving(12, last=0.05)
MODEL, CHAIN = MIXTURE.denoiser(LEVELS), chain(LEVELS)

HELD: list[diffusion.drafts.Held] = [Prediction(), Output(), Increment()]
MEAN, WIDTH, DIMENSIONS = 0.7, 0.4, 6
LONG_STEPS = diffusion.variance_preserving(6, last=0.05)
GAUSSIAN = GaussianMixture(torch.full((1, DIMENSIONS), MEAN), WIDTH).denoiser(LONG_STEPS)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def perturbed(model: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A worse model of the same states."""
    return lambda inputs, times: 0.9 * model(inputs, times) + 0.1 * torch.sin(3 * inputs)


def drafts(model: Callable[..., torch.Tensor]) -> dict[str, diffusion.drafts.Draft]:
    """Every kind of draft, by what it is."""
    made: dict[str, diffusion.drafts.Draft] = {
        f"{kind.__name__} {type(held).__name__}": kind(held)
        for kind in (Frozen, Stale, Carried)
        for held in HELD
    }
    made["Independent"] = Independent(perturbed(model))
    for sweeps in (1, 2):
        for first in (Frozen(), Stale(), Carried(), Independent(perturbed(model))):
            made[f"Picard {sweeps} {type(first).__name__}"] = Picard(first, sweeps=sweeps)
    made["Picard Increment"] = Picard(Stale(Increment()), held=Increment())
    return made


NAMES = list(drafts(MODEL))
WINDOWS = {"4": 4, "adaptive": Adaptive(8)}
NUM_VIEWS = 6
NUM_TESTS = 2 * len(WINDOWS) * len(NAMES) * NUM_VIEWS
THRESHOLD = FALSE_ALARM_RATE / NUM_TESTS  # more than the tests of this file that have to pass


class Peeking:
    """A draft that knows the noise of its own step, which no draft may."""

    looks_ahead = False

    def propose(self, round: Round) -> Proposal:
        proposal = Stale().propose(round)
        peeked = 0.5 * round.process.sigmas[round.steps][:, None].to(round.noise.dtype) * round.noise[:, 0]
        return round.roll(lambda position, *_: proposal.means[:, position] + (peeked if position == 0 else 0))

    def num_calls(self, length: int) -> int:
        return 1


# --- a mixture, against plain sampling ----------------------------------------------------------------------


def views(samples: torch.Tensor) -> list[np.ndarray]:
    """NUM_VIEWS numbers of each sample [n, 2]."""
    x, y = samples.double().numpy().T
    return [x, y, x + y, x - y, np.hypot(x - 1, y + 2), np.hypot(x + 2, y)]


@cache
def plain(process: Process, model: Callable[..., torch.Tensor]) -> list[np.ndarray]:
    """Of a seed that no draft is tested with."""
    return views(sample(model, process, (2,), NUM, seed=1000).samples)


def p_value(
    process: Any, model: Callable[..., torch.Tensor], draft: Any, window: Any, seed: int
) -> tuple[float, diffusion.Stats]:
    """The least of a two-sample test's views."""
    result = sample(model, process, (2,), NUM, draft=draft, window=window, seed=seed)
    return min(map(ks_two_samples, views(result.samples), plain(process, model))), result.stats


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", NAMES)
def test_a_mixture_has_the_law_of_plain_sampling(name: str, window: str) -> None:
    p, stats = p_value(CHAIN, MODEL, drafts(MODEL)[name], WINDOWS[window], seed=NAMES.index(name))
    assert p > THRESHOLD
    assert stats.accepted.sum() < stats.tested.sum(), "some drafts were repaired"


@pytest.mark.parametrize("wrong", WRONG, ids=lambda rule: rule.__name__)
def test_wrong_couplings_do_not(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.diffusion.sampler.couple", wrong)
    assert p_value(CHAIN, MODEL, Stale(Increment()), 4, seed=0)[0] < THRESHOLD


OTHERS = {
    "ve": (diffusion.variance_exploding(12, sigma_min=0.1, sigma_max=20), 1.0, "epsilon"),
    "linear": (diffusion.linear_interpolant(12), 1.0, "flow_prediction"),
    "ddpm": (
        diffusion.ddpm_levels(np.cumprod(1 - np.linspace(1e-3, 0.1, 60)).tolist(), range(59, -1, -5)),
        1.0,
        "epsilon",
    ),
    "less churn": (LEVELS, 0.5, "v_prediction"),
    "more churn": (LEVELS, 1.5, "sample"),
}


@pytest.mark.parametrize("draft", [Stale(), Carried(Output())], ids=["stale", "carried"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_chains_keep_their_law_too(name: str, draft: Any) -> None:
    levels, churn, prediction = OTHERS[name]
    process = chain(levels, churn=churn, prediction=prediction)
    p, stats = p_value(process, MIXTURE.denoiser(levels, prediction=prediction), draft, 4, seed=1)
    assert p > THRESHOLD and stats.accepted.sum() < stats.tested.sum()


@pytest.mark.parametrize("draft", [Frozen(), Stale(), Picard()], ids=["frozen", "stale", "picard"])
def test_a_drift_keeps_its_law_too(draft: Any) -> None:
    process = Drift([0.1 * step for step in range(13)], lambda t: 1.0 + t / 4)
    p, stats = p_value(process, two_wells, draft, 4, seed=2)
    assert p > THRESHOLD and stats.accepted.sum() < stats.tested.sum()


def two_wells(inputs: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """The drift of a particle on the potential (|y|^2 - 2)^2 / 4, the wells turning with time."""
    pull = inputs * (2 - inputs.square().sum(1, keepdim=True)).clamp_min(-8)
    return pull + times[:, None] * inputs.flip(1) * inputs.new_tensor([1, -1])


# --- a Gaussian, against the law itself ---------------------------------------------------------------------


def final_law() -> tuple[float, float]:
    """(mean, spread) of every element after the last step, by the posterior of Ho, Jain & Abbeel."""
    mean, variance = 0.0, 1.0
    squares = [alpha**2 for alpha in LONG_STEPS.alphas]
    for now, after in itertools.pairwise(squares):
        beta = 1 - now / after
        pull, keep = math.sqrt(after) * beta / (1 - now), math.sqrt(1 - beta) * (1 - after) / (1 - now)
        gain = math.sqrt(now) * WIDTH**2 / (now * WIDTH**2 + 1 - now)
        offset = MEAN - gain * math.sqrt(now) * MEAN  # the clean sample is gain * state + offset
        mean = keep * mean + pull * (gain * mean + offset)
        variance = (keep + pull * gain) ** 2 * variance + beta * (1 - after) / (1 - now)
    return mean, math.sqrt(variance)


def gaussian_p_value(draft: Any, window: Any, seed: int) -> float:
    """The least of three tests: all elements, sums of two, and squares of lengths."""
    mean, spread = final_law()
    result = sample(GAUSSIAN, chain(LONG_STEPS), (DIMENSIONS,), NUM, draft=draft, window=window, seed=seed)
    rest = (result.samples.double().numpy() - mean) / spread
    half = (rest**2).sum(1) / 2
    tests = [
        ks_test(rest.ravel(), normal),
        ks_test((rest[:, ::2] + rest[:, 1::2]).ravel() / math.sqrt(2), normal),
        ks_test(half, lambda y: 1 - np.exp(-y) * (1 + y + y**2 / 2)),
    ]
    return min(tests)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("name", NAMES)
def test_a_gaussian_has_its_law(name: str, window: str) -> None:
    assert gaussian_p_value(drafts(GAUSSIAN)[name], WINDOWS[window], seed=NAMES.index(name)) > THRESHOLD


@pytest.mark.parametrize("wrong", WRONG, ids=lambda rule: rule.__name__)
def test_wrong_couplings_lose_it(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("outpace.diffusion.sampler.couple", wrong)
    assert gaussian_p_value(Stale(Increment()), 4, seed=0) < THRESHOLD


def test_a_draft_that_peeks_loses_it() -> None:
    """The tests see more than couplings: a mean that depends on its own step's noise is found out."""
    assert gaussian_p_value(Peeking(), 4, seed=0) < THRESHOLD
