"""The tests and distances that the diffusion experiment judges samples by, against their definitions."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("torch")
import torch

from experiments.diffusion import two_sample
from experiments.diffusion.frechet import Features, Gaussian, frechet, with_intervals
from experiments.diffusion.two_sample import energy_test, grouped_energy_test, holm, permutations_for


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_energy_is_its_definition() -> None:
    one, two = normal(7, 3, seed=0), 2 * normal(5, 3, seed=1)

    def mean_distance(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.dist(x, y) for x in a.tolist() for y in b.tolist()) / (len(a) * len(b))

    expected = 2 * mean_distance(one, two) - mean_distance(one, one) - mean_distance(two, two)
    assert energy_test(one, two, most=19)[0] == pytest.approx(expected)


def test_groups_are_judged_by_themselves() -> None:
    """Samples that differ from group to group by far more than from one law to another."""
    places = 100 * normal(12, 1, 2, seed=0)
    one, same = places + normal(12, 6, 2, seed=1), places + normal(12, 6, 2, seed=2)
    other = same + 1
    energy, p = grouped_energy_test(one, other, most=199)
    alone = [energy_test(*pair, most=19)[0] for pair in zip(one, other, strict=True)]
    assert energy == pytest.approx(sum(alone))
    assert p == 1 / 200 and grouped_energy_test(one, same, most=199)[1] > 0.05
    assert energy_test(one.flatten(0, 1), other.flatten(0, 1), most=199)[1] > 0.05


def test_p_is_uniform_for_one_law_and_small_for_two() -> None:
    """One law: of 120 p-values as many below a tenth and a half as binomials allow, at 1e-4 each side."""
    same = [
        energy_test(normal(20, 2, seed=i), normal(30, 2, seed=10_000 + i), most=199)[1] for i in range(120)
    ]
    for level, (low, high) in {0.1: (2, 27), 0.5: (40, 81)}.items():
        assert low <= sum(p <= level for p in same) <= high
    other = [
        energy_test(normal(40, 2, seed=i), 1 + normal(40, 2, seed=10_000 + i), most=199)[1] for i in range(5)
    ]
    assert max(other) == 1 / 200  # no permutation is as far apart


def test_stopping_early_estimates_the_same_p(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = normal(30, 2, seed=3), 0.15 + normal(30, 2, seed=4)
    monkeypatch.setattr(two_sample, "ENOUGH", 10**9)
    exact = energy_test(one, two, most=20_000)[1]
    monkeypatch.setattr(two_sample, "ENOUGH", 400)
    early = energy_test(one, two, most=20_000, seed=1)[1]
    assert 0.02 < exact < 0.5
    assert early == pytest.approx(exact, rel=4 / 400**0.5)


def test_holm_is_its_definition() -> None:
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert 1 / (permutations_for(200, 0.05) + 1) * 200 < 0.05


def test_frechet_of_known_gaussians() -> None:
    turn, _ = torch.linalg.qr(normal(3, 3, seed=0))
    wide, narrow = torch.tensor([4.0, 1.0, 9.0]).double(), torch.tensor([1.0, 1.0, 4.0]).double()
    one = Gaussian(torch.zeros(3).double(), turn * wide @ turn.T)
    two = Gaussian(torch.tensor([1.0, 2.0, 0.0]).double(), turn * narrow @ turn.T)
    # Of covariances with common axes: the differences of means and of standard deviations, squared.
    assert frechet(one, two) == pytest.approx(5 + 1 + 0 + 1) == pytest.approx(frechet(two, one))
    # Of others, by the square root of a product, from its eigenvalues.
    three = Gaussian(two.mean, torch.diag(narrow))
    root = torch.linalg.eigvals(one.covariance @ three.covariance).real.sqrt().sum()
    assert frechet(one, three) == pytest.approx(float(5 + wide.sum() + narrow.sum() - 2 * root))


def test_intervals_hold_the_truth_in_about_19_of_20() -> None:
    """N(0, I) and N((0.5, 0, 0), I): distance 0.25. Of 40 intervals 30 hold it, at a chance of 1e-5."""
    found, excess = [], []
    for seed in range(40):
        sets = normal(80, 3, seed=seed), normal(80, 3, seed=1000 + seed) + torch.tensor([0.5, 0, 0])
        found += with_intervals(sets, lambda *both: [frechet(*both)], seed=seed)
        excess.append(frechet(*map(Gaussian.of, sets)) - found[-1][0])
    assert sum(low <= 0.25 <= high for _, low, high in found) >= 30
    assert sum(low <= 0.6 <= high for _, low, high in found) < 30
    assert all(low < value < high for value, low, high in found)
    # n samples in k dimensions: means add 2 k / n to a distance, covariances (k^2 + k) / (2 n).
    assert sum(excess) / len(excess) == pytest.approx(6 / 80 + 12 / 160, abs=0.03)


def test_features_do_not_depend_on_companions_and_have_unit_variance() -> None:
    real = normal(200, 1, 8, 8, seed=0).float()
    features = Features(real, components=8)
    assert torch.allclose(features(real).T.cov(), torch.eye(8).double(), atol=1e-4)
    assert torch.allclose(features(real[:3]), features(real)[:3], atol=1e-5)
    assert torch.allclose(Features(real, components=8)(real[:3]).abs(), features(real[:3]).abs())
