"""Part (a): mixtures of Gaussians, whose score is known. No training, no error but that of the chain's steps.

The library's own mixture (`outpace diffusion bench mixture:dimensions=32`): five components in d dimensions,
each 0.3 wide, their means standard normal and so about sqrt(2 d) apart. Other models of the same chain, for
independent drafts: the mixture with its means moved a little, and one Gaussian in place of it. They cost what
the mixture costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from experiments.diffusion.measure import Measure
from experiments.diffusion.scales import MERGED, PERTURBED, MixtureScale
from experiments.diffusion.settings import Chain
from experiments.diffusion.two_sample import ALARM_RATE, energy_test, permutations_for
from experiments.kit.results import Record, Results
from outpace.core.errors import OutpaceError
from outpace.diffusion import Levels, chain, linear_interpolant, variance_exploding, variance_preserving
from outpace.diffusion.mixture import GaussianMixture
from outpace.diffusion.process import Model, Process
from outpace.progress import Progress

COMPONENTS = 5
MOVED = 0.3  # of a component's width, in every coordinate
PROCESSES: dict[str, tuple[Callable[[int], Levels], str]] = {
    "variance preserving": (variance_preserving, "epsilon"),
    "variance exploding": (variance_exploding, "epsilon"),
    "linear interpolant": (linear_interpolant, "flow_prediction"),
}
"""Levels, and what the model says: the noise, or the velocity."""


def subject_name(dim: int) -> str:
    """As records have it."""
    return f"{dim} dimensions"


def perturbed(law: GaussianMixture) -> GaussianMixture:
    """Means moved."""
    random = torch.Generator().manual_seed(0)
    moves = MOVED * law.width * torch.randn(law.means.shape, generator=random)
    return GaussianMixture(law.means + moves, law.width)


def merged(law: GaussianMixture) -> GaussianMixture:
    """One component of the same mean and the same variance over all coordinates."""
    mean = law.weights @ law.means
    apart = (law.weights @ (law.means - mean).square()).mean()
    return GaussianMixture(mean[None], float(law.width**2 + apart) ** 0.5)


class MixtureSubject:
    """Sampled from by `Measure`."""

    def __init__(self, dim: int, batch: int) -> None:
        self.name = subject_name(dim)
        self.shape: Sequence[int] = (dim,)
        self.batch = batch
        self._law = GaussianMixture.random(dim, COMPONENTS)

    def target(self, which: Chain) -> tuple[Model, Process]:
        """The known denoiser, said in the words of the process."""
        levels, prediction = _levels(which)
        process = chain(levels, prediction=prediction, churn=which.churn)
        return self._law.denoiser(levels, prediction=prediction), process

    def cheaper(self, name: str, which: Chain) -> Model:
        """Of another mixture."""
        laws = {PERTURBED: perturbed, MERGED: merged}
        if name not in laws:
            raise OutpaceError(f"mixture {name!r} is unknown, accepted are {', '.join(laws)}")
        levels, prediction = _levels(which)
        return laws[name](self._law).denoiser(levels, prediction=prediction)

    def conditions(self, num: int, seed: int) -> None:
        """There are none."""


class EnergyJudge:
    """An energy test of the samples as they are."""

    def __init__(self, most: int) -> None:
        self._most = most

    def of(self, samples: torch.Tensor, plain: torch.Tensor) -> Record:
        """Against plain samples."""
        energy, p = energy_test(samples, plain, most=self._most)
        return {"energy": energy, "p": p}


def measure_mixtures(results: Results, scale: MixtureScale, progress: Progress | None) -> None:
    """All settings in all dimensions."""
    tests = len(scale.dims) * len(scale.sweep.settings())
    judge = EnergyJudge(permutations_for(tests, ALARM_RATE))
    for dim in scale.dims:
        subject = MixtureSubject(dim, scale.samples)
        Measure(subject, scale.sweep, judge, results, scale.samples, scale.timed, progress).all()


def _levels(which: Chain) -> tuple[Levels, str]:
    if which.process not in PROCESSES:
        raise OutpaceError(f"process {which.process!r} is unknown, accepted are {', '.join(PROCESSES)}")
    levels, prediction = PROCESSES[which.process]
    return levels(which.steps), prediction
