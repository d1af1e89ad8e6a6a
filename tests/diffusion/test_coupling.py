"""The coupling: accepted as often as can be, the target's law whatever the draft; wrong ones do not pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from outpace.diffusion.coupling import acceptance, couple
from tests.diffusion.couplings import WRONG
from tests.laws import FALSE_ALARM_RATE, binomial_test, ks_test, normal

NUM = 12_000
DISTANCES = [0.05, 0.5, 1.0, 2.0, 4.0]
SHAPES: list[tuple[int, ...]] = [(1,), (2,), (3, 4, 4)]
THRESHOLD = FALSE_ALARM_RATE / (len(DISTANCES) * len(SHAPES) * 2 * 8)  # 8 tests at most in each case


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def p_values(
    coupling: Callable[..., Any], distance: float, shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, float]:
    """Of NUM couplings with means this many sigmas apart, in random directions and with mixed sigmas.

    The rest, what the samples lie from the target's mean in sigmas, has to be standard normal: along the
    direction of the two means, across it, between the two, and as a whole.
    """
    source = torch.Generator().manual_seed(round(1000 * distance) + len(shape))

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=source, dtype=torch.float64)

    sigma = drawn(NUM).exp()
    column = sigma.reshape(NUM, *[1] * len(shape))
    direction, other, target = (
        drawn(NUM, *shape).flatten(1),
        drawn(NUM, *shape).flatten(1),
        drawn(NUM, *shape),
    )
    direction /= direction.norm(dim=1, keepdim=True)
    draft = target + distance * column * direction.reshape(target.shape)
    uniform = torch.rand(NUM, generator=source, dtype=torch.float64)
    noise, draft, target = (part.to(dtype) for part in (drawn(NUM, *shape), draft, target))
    samples, accepted = coupling(noise, draft, target, sigma, uniform)
    assert (samples.shape, samples.dtype, accepted.shape) == (noise.shape, dtype, (NUM,))

    rest = ((samples.double() - target.double()) / column).flatten(1)
    along = (rest * direction).sum(1).numpy()
    found = {
        "accepted": binomial_test(int(accepted.sum()), NUM, math.erfc(distance / math.sqrt(8))),
        "along": ks_test(along, normal),
        "variance": chance((along**2 - 1) / math.sqrt(2)),
    }
    if rest.shape[1] > 1:
        other -= (other * direction).sum(1, keepdim=True) * direction
        across = ((rest * other).sum(1) / other.norm(dim=1)).numpy()
        found |= {
            "across": ks_test(across, normal),
            "between": ks_test((along + across) / math.sqrt(2), normal),
            "covariance": chance(along * across),
            "variance across": chance((across**2 - 1) / math.sqrt(2)),
            "all variances": chance(((rest**2 - 1) / math.sqrt(2)).flatten().numpy()),
        }
    return found


def chance(values: np.ndarray) -> float:
    """The p-value of uncorrelated numbers of mean 0 and variance 1, by their sum."""
    return math.erfc(abs(values.sum()) / math.sqrt(2 * len(values)))


def faults(
    coupling: Callable[..., Any], distance: float, shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, float]:
    return {name: p for name, p in p_values(coupling, distance, shape, dtype).items() if p < THRESHOLD}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("distance", DISTANCES)
def test_law_and_acceptance(distance: float, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert faults(couple, distance, shape, dtype) == {}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("wrong", WRONG, ids=lambda rule: rule.__name__)
def test_wrong_couplings_fail(wrong: Any, shape: tuple[int, ...]) -> None:
    assert faults(wrong, 1.0, shape, torch.float64) != {}


def test_what_is_accepted_is_the_draft_and_what_is_not_is_mirrored() -> None:
    """Bit for bit, or by an independent formula in numpy, for samples of any shape."""
    source = torch.Generator().manual_seed(3)
    noise, draft, target = torch.randn(3, 500, 2, 3, generator=source)
    sigma = torch.rand(500, generator=source, dtype=torch.float64) + 0.5
    uniform = torch.rand(500, generator=source, dtype=torch.float64)
    samples, accepted = couple(noise, draft, target, sigma, uniform)
    assert 20 < accepted.sum() < 300
    column = sigma.float()[:, None, None]
    assert torch.equal(samples[accepted], (draft + column * noise)[accepted])
    for i in range(500):
        z, m, q, s = (part[i].double().numpy().ravel() for part in (noise, draft, target, column))
        y = m + s * z
        ratio = math.exp(((y - m) @ (y - m) - (y - q) @ (y - q)) / (2 * s[0] ** 2))
        assert bool(accepted[i]) == (float(uniform[i]) <= ratio)
        if not accepted[i]:
            mirror = np.eye(6) - 2 * np.outer(m - q, m - q) / ((m - q) @ (m - q))
            np.testing.assert_allclose(samples[i].numpy().ravel(), q + s * (mirror @ z), rtol=0, atol=1e-5)
        alone = couple(*(part[i : i + 1] for part in (noise, draft, target, sigma, uniform)))
        assert torch.equal(alone[0][0], samples[i]), "no row depends on the others"


def test_without_noise_and_without_a_difference() -> None:
    noise = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[1.0, 2.0, 3.0]]).expand(4, 3)
    draft = target.clone()
    draft[2:] += 1e-6
    sigma = torch.tensor([0.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    worst = torch.full((4,), 1 - 1e-16, dtype=torch.float64)
    samples, accepted = couple(noise, draft, target, sigma, worst)
    assert accepted[:3].tolist() == [True, True, False]
    assert torch.equal(samples[[0, 2]], target[[0, 2]]), "a step without noise ends at the target's mean"
    assert torch.equal(samples[1], target[1] + 2 * noise[1])
    assert samples.isfinite().all()


def test_half_precision_keeps_its_type_and_the_rate() -> None:
    source = torch.Generator().manual_seed(5)
    noise = torch.randn(NUM, 8, generator=source).to(torch.bfloat16)
    draft = torch.zeros(NUM, 8, dtype=torch.bfloat16)
    target = draft.clone()
    target[:, 2] = 1.5
    uniform = torch.rand(NUM, generator=source, dtype=torch.float64)
    samples, accepted = couple(noise, draft, target, torch.full((NUM,), 1.5, dtype=torch.float64), uniform)
    assert samples.dtype == torch.bfloat16
    assert binomial_test(int(accepted.sum()), NUM, math.erfc(1 / math.sqrt(8))) > FALSE_ALARM_RATE


def test_acceptance_is_the_overlap_of_the_two_laws() -> None:
    """Tabulated, and by numeric integration of the smaller density."""
    tabulated = {0.057: 0.977, 0.25: 0.901, 0.5: 0.803, 1.0: 0.617, 2.0: 0.317, 4.24: 0.034}
    grid = np.linspace(-9, 14, 200_001)
    for distance, rate in tabulated.items():
        given = float(acceptance(torch.tensor(distance, dtype=torch.float64)))
        assert given == pytest.approx(rate, abs=6e-4)
        smaller = np.exp(-np.maximum(grid**2, (grid - distance) ** 2) / 2) / math.sqrt(2 * math.pi)
        assert given == pytest.approx(float(smaller.sum() * (grid[1] - grid[0])), abs=1e-6)
    assert float(acceptance(torch.tensor(0.0))) == 1.0
