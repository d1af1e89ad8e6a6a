"""The mixture's denoiser against the gradient of its density, and its samples against its own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

pytest.importorskip("torch")

import torch

from outpace import diffusion
from outpace.core.errors import OutpaceError
from outpace.diffusion import GaussianMixture
from outpace.diffusion.schedules import PREDICTIONS

MIXTURE = GaussianMixture(torch.tensor([[1.0, -2.0], [0.5, 1.5], [-2.0, 0.0]]), 0.3, [1.0, 2.0, 5.0])
LEVELS = [
    diffusion.variance_preserving(8),
    diffusion.variance_exploding(8),
    diffusion.linear_interpolant(8),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tweedie(states: torch.Tensor, alpha: float, sigma: float) -> torch.Tensor:
    """The expected clean samples by the gradient of the density of the states, and torch's own mixture."""
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    width = math.hypot(alpha * 0.3, sigma)
    parts = torch.distributions.Independent(
        torch.distributions.Normal(alpha * MIXTURE.means, torch.tensor(width, dtype=torch.float64)), 1
    )
    law = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)
    states = states.clone().requires_grad_()
    (score,) = torch.autograd.grad(law.log_prob(states).sum(), states)
    return (states.detach() + sigma**2 * score) / alpha


@pytest.mark.parametrize("levels", LEVELS, ids=["vp", "ve", "linear"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_denoiser_is_exact(levels: diffusion.Levels, prediction: str) -> None:
    if levels.alphas[0] == 0 and prediction == "epsilon":
        with pytest.raises(OutpaceError, match="step 0 has alpha 0"):
            MIXTURE.denoiser(levels, prediction=prediction)
        return
    model = MIXTURE.denoiser(levels, prediction=prediction)
    process = diffusion.chain(levels, prediction=prediction)
    for step in range(1, 8):
        alpha, sigma = levels.alphas[step], levels.sigmas[step]
        noise = torch.randn(20, 2, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        states, steps = alpha * MIXTURE.draw(20, seed=step) + sigma * noise, torch.full((20,), step)
        inputs, times = process.inputs(states, steps)
        clean = process.predict(states, model(inputs, times.float()), steps)
        torch.testing.assert_close(clean, tweedie(states, alpha, sigma), rtol=1e-6, atol=1e-6)
        late = process.predict(states, model(inputs, process.inputs(states, steps - 1)[1]), steps)
        assert (late - clean).abs().max() > 1e-3, "the time is looked at"


def test_samples_have_its_moments() -> None:
    """4000 draws, 4 standard errors: a false alarm in 16000 for each of the 5 numbers."""
    num = 4000
    weights = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) / 8
    mean = weights @ MIXTURE.means
    spread = weights @ (MIXTURE.means - mean) ** 2 + 0.3**2
    drawn = MIXTURE.draw(num)
    assert ((drawn.mean(0) - mean).abs() < 4 * (spread / num).sqrt()).all()
    product = (drawn - mean).prod(1)
    expected = (weights * (MIXTURE.means - mean).prod(1)).sum()
    assert abs(product.mean() - expected) < 4 * product.std() / num**0.5


def test_random_ones_are_the_same_for_the_same_seed() -> None:
    one, same, other = (GaussianMixture.random(6, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.means, same.means) and not torch.equal(one.means, other.means)
    assert one.means.shape == (3, 6) and one.draw(4).shape == (4, 6)
    assert torch.equal(one.draw(4, seed=3), same.draw(4, seed=3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture(torch.zeros(3), 1.0), r"means of shape \(3,\) are not accepted"),
        (lambda: GaussianMixture(torch.full((1, 1), math.nan), 1.0), "finite numbers"),
        (lambda: GaussianMixture(torch.zeros(2, 1), 0.0), "width is 0, accepted are finite numbers > 0"),
        (lambda: GaussianMixture(torch.zeros(2, 1), 1.0, [1.0]), "2 finite numbers > 0 are"),
        (lambda: GaussianMixture(torch.zeros(2, 1), 1.0, [1.0, 0.0]), "2 finite numbers > 0 are"),
        (lambda: GaussianMixture.random(0, 5), "dimensions is 0, accepted are whole"),
        (
            lambda: MIXTURE.denoiser(LEVELS[0], prediction="noise"),
            "prediction is 'noise', accepted are epsilon",
        ),
    ],
)
def test_bad_input(make: Callable[[], object], message: str) -> None:
    with pytest.raises(OutpaceError, match=message):
        make()


@pytest.mark.parametrize(("dimensions", "shape"), [(1, (5,)), (2, (1,)), (2, (3,)), (2, (2, 2))])
def test_states_of_other_dimensions_are_named(dimensions: int, shape: tuple[int, ...]) -> None:
    """One dimension would spread over many without a word."""
    model = GaussianMixture.random(dimensions, 2).denoiser(LEVELS[0])
    process = diffusion.chain(LEVELS[0], prediction="epsilon")
    with pytest.raises(OutpaceError, match=rf"states of shape \(4, .*accepted: \[n, {dimensions}\] are"):
        diffusion.sample(model, process, shape, 4)
