"""Demonstrations: episodes of the scripted pusher that end with success, each from a seed of its own.

Written in parts by as many processes as there are processors, so that an interrupted run goes on.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.diffusion.policy_expert import Pusher
from experiments.diffusion.policy_task import ENOUGH, PushT
from outpace.progress import progress_bar

PART = 50  # seeds
HORIZON = 16  # actions that the policy predicts


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """Episodes one after another. observations f64[n, 5], actions f64[n, 2]; lengths i64[E] of the episodes.

    tried  how many episodes there were, those that failed included.
    """

    observations: NDArray[np.float64]
    actions: NDArray[np.float64]
    lengths: NDArray[np.int64]
    tried: int

    @property
    def data_hash(self) -> str:
        """Names them."""
        return f"sha256:{hashlib.sha256(self.observations.tobytes() + self.actions.tobytes()).hexdigest()}"

    def windows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(pairs f64[n, 2, 5] of the last and the present observation, the HORIZON actions from then on).

        The first observation is its own last one; after an episode's end its last action goes on.
        """
        ends = np.repeat(self.lengths.cumsum(), self.lengths)
        present = np.arange(len(self.observations))
        last = np.maximum(present - 1, ends - np.repeat(self.lengths, self.lengths))
        following = np.minimum(present[:, None] + np.arange(HORIZON), ends[:, None] - 1)
        return np.stack([self.observations[last], self.observations], 1), self.actions[following]


def demonstrate(task: PushT, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64], bool]:
    """(observations f64[T, 5], actions f64[T, 2], whether the goal is covered) of an episode."""
    pusher = Pusher(np.random.default_rng(seed))
    observations, actions, coverage = [task.begin(seed)], [], 0.0
    while (action := pusher.act(observations[-1])) is not None:
        moment = task.act(action)
        actions.append(action)
        coverage = moment.coverage
        if moment.finished:
            break
        observations.append(moment.observation)
    shape = np.array(actions).reshape(-1, 2)
    return np.array(observations[: len(actions)]).reshape(-1, 5), shape, coverage > ENOUGH


def make_demonstrations(folder: Path, episodes: int, *, processes: int = 1) -> Demonstrations:
    """The successes of the seeds 0, 1, ... `episodes` - 1, from the folder as far as they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        (folder / f"{first:06}-{min(first + PART, episodes):06}.npz", first, min(first + PART, episodes))
        for first in range(0, episodes, PART)
    ]
    missing = [part for part in parts if not part[0].exists()]
    with progress_bar() as progress:
        for number, _ in enumerate(_written(missing, processes), 1):
            if progress is not None:
                progress(number, len(missing), "demonstrations")
    found: list[dict[str, NDArray]] = []
    for path, *_ in parts:
        with np.load(path) as part:
            found.append(dict(part))
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    return Demonstrations(joined["observations"], joined["actions"], joined["lengths"], episodes)


def _written(parts: list[tuple[Path, int, int]], processes: int) -> Iterator[None]:
    if processes == 1 or len(parts) < 2:
        yield from map(_write, parts)
        return
    # a fork would take over locks that torch's threads hold
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_write, parts)


def _write(part: tuple[Path, int, int]) -> None:
    """A file of the seeds of a part."""
    path, first, end = part
    task = PushT()
    found = [demonstrate(task, seed) for seed in range(first, end)]
    task.close()
    kept = [(observations, actions) for observations, actions, success in found if success]
    half = path.with_suffix(f".{os.getpid()}.part")
    with half.open("wb") as file:
        np.savez(
            file,
            observations=np.concatenate([np.empty((0, 5)), *(one for one, _ in kept)]),
            actions=np.concatenate([np.empty((0, 2)), *(one for _, one in kept)]),
            lengths=np.array([len(one) for _, one in kept], np.int64),
        )
    half.replace(path)
