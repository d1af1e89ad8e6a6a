"""How likely a drafted node is to be kept: what a prior says, corrected by every verdict.

McCormick, Raftery, Madigan & Burd 2012, "Dynamic logistic regression and dynamic model averaging for binary
classification", Biometrics 68(1): a logistic regression that forgets, by one step of Newton's a time. For n
nodes of F features:

    x       f64[n, 2 + F]: the logit of the prior, 1, and the features
    chance  sigmoid(x w); w begins at w0 = (1, 0, 0, ...), which is the prior as it is
    learn   A <- g A + (1 - g) A0 + x' diag(p (1 - p)) x          f64[2 + F, 2 + F], begins at A0
            w <- w + A^-1 (x' (kept - p) + (1 - g) A0 (w0 - w))

A0 is worth a few nodes, so some tens of steps correct a wrong prior; g forgets a step after about a thousand.
A step is no longer than `LONGEST` and w stays within `FARTHEST` of w0, whatever the verdicts say.

Deviation. The paper adapts g to the data; here it is fixed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

MEMORY = 0.999  # g
BELIEF = 4.0  # A0: in the prior, of each weight
SHARPEST = 12.0  # a logit: nothing is surer
LEAST = 1e-4  # of p (1 - p)
LONGEST = 1.0
FARTHEST = 8.0


class Survival:
    """The estimate; all texts of a drafter share one."""

    def __init__(self, num_features: int) -> None:
        self._first = np.eye(2 + num_features)[0]
        self.weights: Floats = self._first
        self._certainty: Floats = BELIEF * np.eye(2 + num_features)

    def chance(self, prior: Floats, features: Floats) -> Floats:
        """[n] logits, [n, F] -> f64[n]: how likely each node is to be kept."""
        return _sigmoid(_inputs(prior, features) @ self.weights)

    def learn(self, prior: Floats, features: Floats, kept: NDArray[np.bool_]) -> None:
        """What became of n nodes, kept ones and others. Those without a verdict are left out."""
        inputs = _inputs(prior, features)
        said = _sigmoid(inputs @ self.weights)
        weight = np.maximum(said * (1 - said), LEAST)
        fresh = (1 - MEMORY) * BELIEF
        certainty = MEMORY * self._certainty + inputs.T @ (weight[:, None] * inputs)
        certainty.ravel()[:: len(self._first) + 1] += fresh
        wanted = inputs.T @ (kept - said) + fresh * (self._first - self.weights)
        step = np.linalg.solve(certainty, wanted)
        step *= LONGEST / max(LONGEST, float(np.linalg.norm(step)))
        moved = np.clip(self.weights + step - self._first, -FARTHEST, FARTHEST)
        self.weights, self._certainty = self._first + moved, certainty


def logit(chance: Floats) -> Floats:
    """Of probabilities, within `SHARPEST`."""
    with np.errstate(divide="ignore"):
        return np.clip(np.log(chance) - np.log1p(-chance), -SHARPEST, SHARPEST)


def _inputs(prior: Floats, features: Floats) -> Floats:
    return np.concatenate([prior[:, None], np.ones((len(prior), 1)), features], axis=1).astype(np.float64)


def _sigmoid(logits: Floats) -> Floats:
    chance: Floats = 1.0 / (1.0 + np.exp(-np.clip(logits, -SHARPEST, SHARPEST)))
    return chance
