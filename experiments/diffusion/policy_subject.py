"""Sequences of actions for held-out observations: what the sweep of `measure.py` samples of the policy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.diffusion.policy_demos import HORIZON, Demonstrations, demonstrate
from experiments.diffusion.policy_model import Policy, policy_chain, told
from experiments.diffusion.policy_task import PushT
from experiments.diffusion.policy_train import POLICY
from experiments.diffusion.settings import Chain
from experiments.diffusion.two_sample import grouped_energy_test
from experiments.kit.results import Record
from outpace.core.errors import OutpaceError
from outpace.diffusion.process import Model, Process

HELD_OUT = 1_000_000  # first seed, beyond all that demonstrate
NUM_HELD_OUT = 12
BATCH = 512


def held_out_pairs(num: int) -> NDArray[np.float64]:
    """f64[num, 2, 5]: the last and the present observation at moments of demonstrations of their own."""
    task = PushT()
    shown = [demonstrate(task, HELD_OUT + number) for number in range(min(num, NUM_HELD_OUT))]
    task.close()
    observations, actions = (np.concatenate(parts) for parts in list(zip(*shown, strict=True))[:2])
    lengths = np.array([len(one) for one, *_ in shown])
    pairs, _ = Demonstrations(observations, actions, lengths, len(shown)).windows()
    return pairs[np.linspace(0, len(pairs) - 1, num).astype(int)]


class PolicySubject:
    """Sampled from by `Measure`: sample i is for observation i, modulo their number."""

    name = POLICY
    shape: Sequence[int] = (HORIZON, 2)
    batch = BATCH

    def __init__(self, policy: Policy, pairs: NDArray[np.float64]) -> None:
        self._policy = policy
        self._told = torch.from_numpy(told(pairs))

    def target(self, which: Chain) -> tuple[Model, Process]:
        """The policy and its chain."""
        return self._policy, policy_chain(which.steps, churn=which.churn)

    def cheaper(self, name: str, which: Chain) -> Model:
        """There is none."""
        raise OutpaceError(f"no cheaper policy {name!r} is trained, accepted are drafts without a model")

    def conditions(self, num: int, seed: int) -> torch.Tensor:
        """f32[num, F]: what the policy is told of each sample; the seeds of single ones go through all."""
        first = seed if num == 1 else 0
        return self._told[(torch.arange(num) + first) % len(self._told)]


class GivenObservation:
    """An energy test of sequences that are exchanged between samples of the same observation alone.

    It asks whether both are of one law given the observation, for all observations at once.
    """

    def __init__(self, num_observations: int, most: int) -> None:
        self._num = num_observations
        self._most = most

    def of(self, samples: torch.Tensor, plain: torch.Tensor) -> Record:
        """Against plain samples."""
        energy, p = grouped_energy_test(self._grouped(samples), self._grouped(plain), most=self._most)
        return {"energy": energy, "p": p}

    def _grouped(self, samples: torch.Tensor) -> torch.Tensor:
        """[observations, repeats, 32]."""
        return samples.flatten(1).unflatten(0, (-1, self._num)).transpose(0, 1)
