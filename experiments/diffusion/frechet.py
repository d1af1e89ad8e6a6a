"""Fréchet distance of images on fixed features, with bootstrap intervals.

Heusel et al. 2017, arXiv:1706.08500: Gaussians are fitted to the features of both sets, and it is

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

The usual features are a network's that was trained on large photographs: no package has it, and 8 x 8 digits
are nothing like them. Here they are two layers of random convolutions from a fixed seed, which were fitted to
nothing, averaged over quarters of the image. Of these, the leading principal components of real images, each
scaled to variance 1: few enough that some hundred samples determine their covariance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, relu

COMPONENTS = 32
CHANNELS = (32, 64)
RESAMPLES, COVERED = 300, 0.95


class Features:
    """f64[n, k] of images f32[n, C, H, W]; components and scales are those of `real` ones."""

    def __init__(self, real: torch.Tensor, components: int = COMPONENTS) -> None:
        random = torch.Generator().manual_seed(0)
        sizes = (real.shape[1], *CHANNELS)
        self._kernels = [
            torch.randn(wide, narrow, 3, 3, generator=random) / (9 * narrow) ** 0.5
            for narrow, wide in itertools.pairwise(sizes)
        ]
        raw = self._raw(real)
        self._mean = raw.mean(0)
        values, vectors = torch.linalg.eigh((raw - self._mean).T.cov())
        self._projection = vectors[:, -components:] / values[-components:].sqrt()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (self._raw(images) - self._mean) @ self._projection

    def _raw(self, images: torch.Tensor) -> torch.Tensor:
        for kernel in self._kernels:
            images = avg_pool2d(relu(conv2d(images, kernel, padding=1)), 2)
        return adaptive_avg_pool2d(images, 2).flatten(1).double()


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Fitted to features."""

    mean: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> Gaussian:
        """features: [n, k]."""
        return cls(features.mean(0), features.T.cov())


def frechet(one: Gaussian, two: Gaussian) -> float:
    """The squared distance of two Gaussians."""
    values, vectors = torch.linalg.eigh(one.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ two.covariance @ root).clamp_min(0).sqrt().sum()
    traces = one.covariance.trace() + two.covariance.trace()
    return float((one.mean - two.mean).square().sum() + traces - 2 * cross)


def with_intervals(
    sets: Sequence[torch.Tensor], values: Callable[..., Sequence[float]], *, seed: int = 0
) -> list[list[float]]:
    """[value, low, high] of each of values(Gaussian of each set of features).

    A distance is the larger the fewer samples there are. Resampling adds as much again as sampling has added:
    values are corrected by it, and intervals are the basic bootstrap's, quantiles mirrored at the value.
    """
    random = torch.Generator().manual_seed(seed)
    found = torch.tensor(values(*map(Gaussian.of, sets)), dtype=torch.float64)
    again = []
    for _ in range(RESAMPLES):
        some = (one[torch.randint(len(one), (len(one),), generator=random)] for one in sets)
        again.append(values(*map(Gaussian.of, some)))
    ends = torch.tensor([(1 + COVERED) / 2, (1 - COVERED) / 2], dtype=torch.float64)
    drawn = torch.tensor(again, dtype=torch.float64)
    low, high = 2 * found - torch.quantile(drawn, ends, dim=0)
    return torch.stack([2 * found - drawn.mean(0), low, high], 1).tolist()
