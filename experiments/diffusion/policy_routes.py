"""Ways for the agent around the block, left or right, without touching it. All in the block's frame.

A ring of eight corners lies around the block. A way leads from the agent to a corner that it sees, along the
ring in one direction, and from a corner to the goal that sees it; which corners, is what makes it short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.diffusion.policy_task import RADIUS, SIDE, distance, rotation

CLEAR, MARGIN = 25.0, 4.0  # of the ring from the block; how near the agent may pass by
WALL = 6.0
NEAR = 6.0  # a corner is passed by when so near
SIDE_SCALE = 60.0  # a way that is so much longer than the other is taken e times more rarely
RING = np.array(
    [
        [-60 - CLEAR, -CLEAR], [60 + CLEAR, -CLEAR], [60 + CLEAR, 30 + CLEAR], [15 + CLEAR, 30 + CLEAR],
        [15 + CLEAR, 120 + CLEAR], [-15 - CLEAR, 120 + CLEAR], [-15 - CLEAR, 30 + CLEAR],
        [-60 - CLEAR, 30 + CLEAR],
    ]
)  # fmt: skip
SIDES = np.hypot(*(np.roll(RING, -1, 0) - RING).T)  # from each corner to the next
Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Ways:
    """From one start to K goals: lengths f64[K], inf where there is no way."""

    lengths: NDArray[np.float64]
    _first: list[Points]
    _goals: Points
    _straight: NDArray[np.float64]
    _around: NDArray[np.float64]
    _corners: NDArray[np.int64]

    def route(self, goal: int, random: np.random.Generator) -> list[Points]:
        """Points to go to one after another; of two ways around, the shorter one more often."""
        if np.isfinite(self._straight[goal]):
            return [*self._first, self._goals[goal]]
        around = self._around[goal]
        shares = np.exp((around.min() - around) / SIDE_SCALE)
        side = int(random.choice(2, p=shares / shares.sum()))
        corner, last = divmod(int(self._corners[goal, side]), len(RING))
        points = [RING[corner]]
        while corner != last:
            corner = (corner + (1, -1)[side]) % len(RING)
            points.append(RING[corner])
        return [*self._first, *points, self._goals[goal]]


def find_ways(start: Points, goals: Points, observation: NDArray[np.floating]) -> Ways:
    """From f64[2] to each of f64[K, 2]; corners beyond the walls are none."""
    first: list[Points] = []
    for _ in range(4):  # out of a corner of the block there may be more than one to go
        if distance(start) < RADIUS + MARGIN + 2:
            start = start + _outward(start) * (RADIUS + MARGIN + 4 - distance(start))
            first = [start]
    usable = within(RING, observation, WALL)
    to_ring = np.where(sees(start, RING) & usable, np.hypot(*(RING - start).T), np.inf)
    from_ring = np.hypot(*np.moveaxis(goals[:, None] - RING, -1, 0))
    from_ring = np.where(sees(goals[:, None], RING) & usable, from_ring, np.inf)
    totals = to_ring[:, None] + _along(usable) + from_ring[:, None, None, :]  # [K, 2, 8, 8]
    flat = totals.reshape(len(goals), 2, -1)
    around = flat.min(2)
    straight = np.where(sees(start, goals), np.hypot(*(goals - start).T), np.inf)
    return Ways(np.minimum(straight, around.min(1)), first, goals, straight, around, flat.argmin(2))


def within(points: Points, observation: NDArray[np.floating], margin: float) -> NDArray[np.bool_]:
    """bool[...]: whether points of the block's frame are so far inside the walls."""
    world = observation[2:4] + points @ rotation(observation[4]).T
    return np.asarray(((world > margin) & (world < SIDE - margin)).all(-1))


def sees(start: Points, end: Points) -> NDArray[np.bool_]:
    """bool[...]: whether the agent can go straight from one to the other, f64[..., 2] each."""
    share = np.linspace(0, 1, 25)[:, None]
    line = start[..., None, :] * (1 - share) + end[..., None, :] * share
    return np.asarray((distance(line) > RADIUS + MARGIN).all(-1))


def ahead(route: list[Points], start: Points, far: float) -> Points:
    """f64[2]: the point of a route that is so far along it, its end at most. Passed points are dropped."""
    while len(route) > 1 and (np.hypot(*(start - route[0])) < NEAR or sees(start, route[1])):
        route.pop(0)
    at = start
    for point in route:
        length = float(np.hypot(*(point - at)))
        if length > far:
            return at + (point - at) / length * far
        far, at = far - length, point
    return at


def _along(usable: NDArray[np.bool_]) -> NDArray[np.float64]:
    """f64[2, 8, 8]: lengths along the ring, forwards and backwards, by first and last corner."""
    lengths = np.full((2, len(RING), len(RING)), np.inf)
    for side, step in enumerate((1, -1)):
        for first in range(len(RING)):
            corner, length = first, 0.0
            for _ in range(len(RING)):
                if not usable[corner]:
                    break
                lengths[side, first, corner] = length
                following = (corner + step) % len(RING)
                length += SIDES[corner if step == 1 else following]
                corner = following
    return lengths


def _outward(point: Points) -> Points:
    """f64[2]: the direction away from the block."""
    slope = distance(point + 1e-3 * np.eye(2)) - distance(point)
    return slope / max(float(np.hypot(*slope)), 1e-9)
