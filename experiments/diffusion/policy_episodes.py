"""Episodes played by the policy: at each decision 16 actions are sampled, and 8 of them carried out.

Episodes go on side by side, so that their decisions are sampled in one batch; each is over when its goal is
covered, or after 300 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.diffusion.policy_model import Policy, to_actions, told
from experiments.diffusion.policy_task import ENOUGH, PushT
from outpace.diffusion import Samples

EXECUTED = 8
Decide = Callable[[torch.Tensor, int], Samples]
"""(conditions f32[n, F], the decision's number) -> sequences [n, 16, 2] as the network predicts them."""


@dataclass(slots=True)
class Episode:
    """One that was played.

    reward           the most of the goal that was covered, as a share of what is enough, 1 at most.
    success, length  whether it was enough, and after how many steps it was over.
    decisions        how many there were. calls, evaluations: of the model, for all of them.
    """

    seed: int
    reward: float = 0.0
    success: bool = False
    length: int = 0
    decisions: int = 0
    calls: int = 0
    evaluations: int = 0


class _Game:
    """An episode under way."""

    def __init__(self, seed: int) -> None:
        self.episode = Episode(seed)
        self.finished = False
        self._task = PushT()
        first = self._task.begin(seed)
        self.pair = np.stack([first, first])

    def carry_out(self, actions: NDArray[np.float64]) -> None:
        """f64[8, 2], as far as the episode goes on."""
        self.episode.decisions += 1
        for action in actions:
            moment = self._task.act(action)
            self.pair = np.stack([self.pair[1], moment.observation])
            self.episode.length += 1
            self.episode.reward = max(self.episode.reward, min(1.0, moment.coverage / ENOUGH))
            self.episode.success |= moment.coverage > ENOUGH
            if moment.finished:
                self.finished = True
                self._task.close()
                return


def play(policy: Policy, seeds: Sequence[int], decide: Decide) -> list[Episode]:
    """An episode for each seed."""
    games = [_Game(seed) for seed in seeds]
    number = 0
    while going := [game for game in games if not game.finished]:
        pairs = np.stack([game.pair for game in going])
        drawn = decide(torch.from_numpy(told(pairs)), number)
        actions = to_actions(pairs, (drawn.samples * policy.action_scale).double().numpy())
        for row, game in enumerate(going):
            game.episode.calls += int(drawn.stats.sequential_calls[row])
            game.episode.evaluations += int(drawn.stats.evaluations[row])
            game.carry_out(actions[row, :EXECUTED])
        number += 1
    return [game.episode for game in games]
