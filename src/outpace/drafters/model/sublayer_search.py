"""A search for the sublayers that a draft can do without, a few trials at a time.

SWIFT (Xia et al. 2024, arXiv:2410.06916) tries random sets and, at intervals, one that a Bayesian model of
the trials so far predicts to be good. All sets have one size, and none skips the first or the last layer.

    random    the leading set with one to four of its sublayers exchanged
    model     score = c - sum of w over the set, a linear regression with a Gaussian prior; a draw of w from
              the posterior names the cheapest sublayers (Thompson sampling)
    new text  the rival, the best of the trials on one text, takes the place of the best set if it is better
              on the next one too

Deviations. SWIFT's random sets are drawn anew, which finds little in the few trials that a short text allows;
its model is a Gaussian process with an upper bound; and it takes what scored best at once. But of many trials
on few tokens the luckiest wins, and may draft worse than the set that it replaces.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from outpace.core.sampling import fresh_seed

MODEL_EVERY = 4
"""One of every 4 trials is the model's. SWIFT: one of 25, in a thousand trials."""
NOISE, SPREAD = 0.05, 0.1
"""Standard deviations of a score and of the weight of one sublayer."""

Sublayers = frozenset[int]


class Search:
    """A value: `copy` it and the two go their own ways. All coins come from the number of the trial.

    best, rival  sets of sublayers; score, rival_score  their shares of tokens told right, -1 when unknown.
    trials       how many sets have been scored; stale  how many since the last new rival or best one.
    """

    def __init__(self, num_layers: int, ratio: float) -> None:
        self._free = list(range(2, 2 * num_layers - 2))
        self._size = round(ratio * len(self._free))
        first = (len(self._free) - self._size) // 2
        self.best: Sublayers = frozenset(self._free[first : first + self._size])
        self.rival: Sublayers | None = None
        self.score = self.rival_score = -1.0
        self.trials = self.stale = 0
        width = len(self._free) + 1
        self._precision: NDArray[np.float64] = np.eye(width) / SPREAD**2
        self._moment: NDArray[np.float64] = np.zeros(width)
        self._moment[-1] = 1 / SPREAD**2  # with nothing left out, every token is right

    def copy(self) -> Search:
        """The same, from here on apart."""
        twin = Search.__new__(Search)
        twin.__dict__.update(self.__dict__)
        twin._precision, twin._moment = self._precision.copy(), self._moment.copy()
        return twin

    @property
    def only(self) -> bool:
        """Whether there is one set of this size and no more."""
        return self._size in (0, len(self._free))

    def new_text(self, score_of: Callable[[Sublayers], float]) -> None:
        """Scores are of another text from now on: what is in the lead has to show itself there."""
        self.score = self._learn(self.best, score_of(self.best))
        if self.rival is not None:
            score = self._learn(self.rival, score_of(self.rival))
            if score > self.score:
                self.best, self.score, self.stale = self.rival, score, 0
        self.rival, self.rival_score = None, -1.0

    def candidate(self) -> Sublayers:
        """The next set to score."""
        coins = random.Random(fresh_seed(0, "sublayers", self.trials))
        if self.trials % MODEL_EVERY == 0:
            return self._modelled(np.random.default_rng(coins.getrandbits(64)))
        leading = self.best if self.rival is None else self.rival
        kept, others = sorted(leading), sorted(set(self._free) - leading)
        count = min(coins.randint(1, 4), len(kept), len(others))
        return leading - set(coins.sample(kept, count)) | set(coins.sample(others, count))

    def record(self, skipped: Sublayers, score: float) -> None:
        """What a candidate has scored."""
        self._learn(skipped, score)
        if skipped != self.best and score > max(self.score, self.rival_score):
            self.rival, self.rival_score, self.stale = skipped, score, 0

    def _learn(self, skipped: Sublayers, score: float) -> float:
        x = np.array([*(sublayer in skipped for sublayer in self._free), True], dtype=np.float64)
        self._precision += np.outer(x, x) / NOISE**2
        self._moment += x * score / NOISE**2
        self.trials += 1
        self.stale += 1
        return score

    def _modelled(self, rng: np.random.Generator) -> Sublayers:
        factor = np.linalg.cholesky(self._precision)
        mean = np.linalg.solve(self._precision, self._moment)
        drawn = mean + np.linalg.solve(factor.T, rng.standard_normal(len(mean)))
        order = np.argsort(-drawn[:-1], kind="stable")
        return frozenset(self._free[i] for i in order[: self._size])
