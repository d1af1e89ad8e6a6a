"""A scripted pusher for PushT: plans two pushes ahead, carries out one, plans anew.

The agent pushes at a point of the block's edge and along its normal n. With c the arm of that force about the
centre of mass and I the inertia, an advance d of the agent moves the block by d / (1 + c^2 / I) along n, and
turns it by c / I for each of these pixels; point and normal being the block's own, that is an exact arc. A
plan is judged in steps of time, and a push goes on as long as that makes its plan better:

    way + first push + second push + WORTH log(error left),    error^2 = |shift|^2 + I (2 - 2 cos turn)

and drawn with exp(-steps / SPREAD), so that the same situation is solved in several ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.diffusion.policy_routes import Points, ahead, find_ways, within
from experiments.diffusion.policy_task import (
    CENTRE,
    GOAL,
    INERTIA,
    OUTLINE,
    RADIUS,
    SIDE,
    local,
    rotation,
    turned,
)

Array = NDArray[np.float64]
BEFORE = 9.0  # where a push begins, in pixels before the touch
REACHED = 7.0
WAY_AHEAD, PUSH_AHEAD = 40.0, 18.0  # how far before the agent the action lies; half of that is a step's way
WAY_SPEED, PUSH_SPEED = 20.0, 9.0  # pixels a step
WORTH, TOLERABLE = 25.0, 1.5  # of an e-th of the error in steps; pixels that do not matter
SECOND_PUSH, HIDDEN = 15.0, 60.0  # steps, its way included, and if there is a wall in the way
SPREAD = 2.0
WALL, WALL_COST = 8.0, 1.0  # steps for each pixel that the block would come nearer to a wall
AGENT_WALL = 12.0
GIVE_UP_AFTER = 60  # steps of one plan
SHARES = np.array([0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.3]) / 0.8  # of pushes, in errors
EDGES = (
    ((-55, 0), (55, 0), (0, 1)), ((60, 3), (60, 27), (-1, 0)), ((34, 30), (57, 30), (0, -1)),
    ((15, 50), (15, 117), (-1, 0)), ((12, 120), (-12, 120), (0, -1)), ((-15, 117), (-15, 50), (1, 0)),
    ((-34, 30), (-57, 30), (0, -1)), ((-60, 27), (-60, 3), (1, 0)),
)  # fmt: skip
"""Where the agent can push: from, to, inward normal."""
SPACING = 12.0


def _contacts() -> tuple[Array, Array]:
    """(points f64[K, 2], normals f64[K, 2])."""
    points, normals = [], []
    for first, last, normal in EDGES:
        ends = np.array([first, last], float)
        for share in np.linspace(0, 1, max(2, round(np.hypot(*(ends[1] - ends[0])) / SPACING) + 1)):
            points.append(ends[0] + share * (ends[1] - ends[0]))
            normals.append(normal)
    return np.array(points), np.array(normals, float)


POINTS, NORMALS = _contacts()
BEGINNINGS = POINTS - NORMALS * (RADIUS + BEFORE)
ALL = np.arange(len(POINTS))
ARMS = (POINTS - CENTRE)[:, 0] * NORMALS[:, 1] - (POINTS - CENTRE)[:, 1] * NORMALS[:, 0]


def pushed(depths: Array) -> tuple[Array, Array]:
    """What pushes of f64[...] pixels do at every contact: shifts f64[..., K, 2] and turns f64[..., K].

    Shifts are of the centre of mass, in the frame of the block before the push.
    """
    lengths = depths[..., None] / (1 + ARMS**2 / INERTIA)
    turns = lengths * ARMS / INERTIA
    chords = (rotation(turns / 2) @ NORMALS[:, :, None])[..., 0]
    return chords * (lengths * np.sinc(turns / (2 * np.pi)))[..., None], turns


@dataclass(slots=True)
class Plan:
    """A push that is under way."""

    contact: int
    route: list[Points]
    pushing: bool = False
    age: int = 0


class Pusher:
    """The demonstrator of one episode."""

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._plan: Plan | None = None

    def act(self, observation: Array) -> Array | None:
        """The action f64[2] for an observation f64[5]; None where it knows no way."""
        for _ in range(3):
            if self._plan is None or self._plan.age >= GIVE_UP_AFTER:
                self._plan = self._planned(observation)
            if self._plan is None:
                return None
            self._plan.age += 1
            aim = self._carried_on(self._plan, observation)
            if aim is not None:
                return np.clip(observation[2:4] + rotation(observation[4]) @ aim, 0, SIDE)
            self._plan = None
        return None

    def _planned(self, observation: Array) -> Plan | None:
        ways = find_ways(local(observation[:2], observation), BEGINNINGS, observation)
        steps, _ = judged(observation, ALL)
        best = steps[1:].min(0) + ways.lengths / WAY_SPEED
        worth = steps[1:].min(0) < steps[0]  # else it would be over before it begins
        best[~(worth & within(BEGINNINGS, observation, AGENT_WALL))] = np.inf
        if not np.isfinite(best).any():
            return None
        shares = np.exp((best.min() - best) / SPREAD)
        contact = int(self._random.choice(len(best), p=shares / shares.sum()))
        return Plan(contact, ways.route(contact, self._random))

    def _carried_on(self, plan: Plan, observation: Array) -> Array | None:
        """f64[2] in the block's frame: where to go next; None when the push is done or has failed."""
        agent, normal = local(observation[:2], observation), NORMALS[plan.contact]
        if not plan.pushing:
            aim = ahead(plan.route, agent, WAY_AHEAD)
            plan.pushing = len(plan.route) == 1 and bool(np.hypot(*(agent - plan.route[0])) < REACHED)
            if not plan.pushing:
                return aim
        missing = POINTS[plan.contact] - normal * RADIUS - agent
        gap = float(missing @ normal)
        sideways = missing - gap * normal
        steps, depths = judged(observation, np.array([plan.contact]))
        left = float(depths[steps[:, 0].argmin()])
        if np.hypot(*sideways) > RADIUS or (left == 0 and gap < 1):
            return None
        return agent + 2 * sideways + normal * min(PUSH_AHEAD, max(gap, 0.0) + left)


def judged(observation: Array, contacts: NDArray[np.int64]) -> tuple[Array, Array]:
    """(steps f64[D, k] of plans that begin with each push at these contacts, the pushes' depths f64[D])."""
    axes = rotation(GOAL[2])
    centre = GOAL[:2] + axes @ CENTRE
    shift = (observation[2:4] + rotation(observation[4]) @ CENTRE - centre) @ axes  # in the goal's frame
    turn = turned(observation[4] - GOAL[2])
    depths = SHARES * max(float(_error(shift, turn)), 3.0)
    shifts, turns = pushed(depths)
    after = shift + shifts[:, contacts] @ rotation(turn).T  # [D, k, 2]
    after_turn = turn + turns[:, contacts]
    flat, flat_turn = after.reshape(-1, 2), after_turn.reshape(-1)
    second = flat[:, None] + shifts.reshape(-1, 2) @ rotation(flat_turn).swapaxes(1, 2)  # [D * k, D * K, 2]
    left = _error(second, flat_turn[:, None] + turns.reshape(-1))
    hidden = HIDDEN * ~within(BEGINNINGS, observation, AGENT_WALL)  # it has no room there, now at least
    cost = SECOND_PUSH + hidden + depths[:, None] / PUSH_SPEED
    twice = (WORTH * np.log(left + TOLERABLE) + cost.flatten()).min(1)
    once = WORTH * np.log(_error(flat, flat_turn) + TOLERABLE)
    once[: len(contacts)] = np.inf  # to do nothing is no plan
    corners = after[..., None, :] + (OUTLINE - CENTRE) @ rotation(after_turn).swapaxes(-1, -2)
    corners = centre + corners @ axes.T
    beyond = np.maximum(WALL - corners, corners - SIDE + 1 + WALL).max((-1, -2)).clip(0)
    steps = np.minimum(once, twice).reshape(after_turn.shape) + WALL_COST * beyond
    return steps + depths[:, None] / PUSH_SPEED, depths


def _error(shifts: Array, turns: Array) -> Array:
    """f64[...], in pixels."""
    return np.sqrt((shifts**2).sum(-1) + INERTIA * (2 - 2 * np.cos(turns)))
