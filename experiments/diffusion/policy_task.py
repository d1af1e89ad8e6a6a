"""PushT, the control task of the policy: a round agent pushes a T-shaped block onto a goal.

Florence et al. 2021 (implicit behavioral cloning), arXiv:2109.00137; the version of Chi et al. 2023
(diffusion policy), arXiv:2303.04137, in the package gym-pusht. An observation is f64[5]: agent x, y, block
x, y and angle; an action f64[2] is where the agent is to go. There are ten of them a second, 300 at most, and
an episode ends when more than 95 % of the goal are covered. The block does not glide and its edges have no
friction: it moves while it is pushed, along the normal of the edge.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError

MOST_STEPS = 300
ENOUGH = 0.95  # coverage
SIDE = 512.0
RADIUS = 15.0  # of the agent
GOAL = np.array([256.0, 256.0, math.pi / 4])

# In the block's own frame: two boxes [low, high], corners, centre of mass, inertia for a unit mass.
BOXES = np.array([[[-60.0, 0.0], [60.0, 30.0]], [[-15.0, 30.0], [15.0, 120.0]]])
OUTLINE = np.array([[-60.0, 0.0], [60.0, 0.0], [60.0, 30.0], [-60.0, 30.0], [15.0, 120.0], [-15.0, 120.0]])
CENTRE = np.array([0.0, 45.0])
INERTIA = 3000.0
ARM = math.sqrt(INERTIA)  # pixels that a turn of one radian is worth


@dataclass(frozen=True, slots=True)
class Moment:
    """What the task says after an action; `coverage` is the share of the goal that the block covers."""

    observation: NDArray[np.float64]
    coverage: float
    finished: bool


class PushT:
    """An episode after another; each is decided by its seed and the actions."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            # pygame's, of its own imports; nothing is drawn here
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                import gym_pusht
                import gymnasium
            except ImportError as error:
                raise OutpaceError(
                    f"the policy needs gym-pusht: pip install 'outpace[experiments]' ({error})"
                ) from None
        assert gym_pusht
        self._env: Any = gymnasium.make("gym_pusht/PushT-v0", obs_type="state", max_episode_steps=MOST_STEPS)

    def begin(self, seed: int) -> NDArray[np.float64]:
        """The first observation, f64[5]."""
        observation, _ = self._env.reset(seed=seed)
        return observation

    def act(self, action: NDArray[np.floating]) -> Moment:
        """Go towards f[2] for a tenth of a second."""
        observation, _, done, late, info = self._env.step(np.asarray(action, np.float64))
        # The task adds two areas in the order of a set: the last bits change from run to run.
        return Moment(observation, round(float(info["coverage"]), 9), bool(done or late))

    def close(self) -> None:
        """End it."""
        self._env.close()


def rotation(angle: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """f64[..., 2, 2]: turns the block's frame into the world's."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def turned(angle: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """The same angle between -pi and pi."""
    return (np.asarray(angle) + math.pi) % (2 * math.pi) - math.pi


def local(points: NDArray[np.floating], observation: NDArray[np.floating]) -> NDArray[np.float64]:
    """f64[..., 2]: points of the world in the frame of the block of observations f[..., 5]."""
    shifted = points - observation[..., 2:4]
    return (shifted[..., None, :] @ rotation(observation[..., 4]))[..., 0, :]


def distance(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """f64[...]: how far points f[..., 2] of the block's frame are from the block, negative inside."""
    found = []
    for low, high in BOXES:
        outside = np.maximum(low - points, points - high)
        inside = np.minimum(outside.max(-1), 0)
        found.append(np.hypot(*np.moveaxis(np.maximum(outside, 0), -1, 0)) + inside)
    return np.minimum(*found)
