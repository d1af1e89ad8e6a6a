"""A race of drafts: they are measured in rounds, and those that are surely behind drop out.

Maron & Moore 1994, "Hoeffding Races: Accelerating Model Selection Search for Classification and Function
Approximation". As in the blocking races of Moore & Lee 1994, "Efficient Algorithms for Minimizing Cross
Validation Error", what is compared are pairs, here the times of one prompt in one round: a machine that has
grown slower has done so for both. Their bound is that of a normal law; Hoeffding's needs times with a limit.

    round    every draft that is left answers every prompt
    drop     whoever surely takes longer than the leader, by `SURE` standard errors
    end      one is left, or all that are left are surely within the margin of the leader, or the most rounds
             or the longest time are over: then the leader wins

The usual draft keeps its place unless another is faster by the margin: it races with that much less time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

SURE = 3.0  # two rounds of 13 prompts have some eight degrees of freedom: by chance beyond once in a hundred

Measure = Callable[[int, Sequence[str]], Mapping[str, Sequence[float]]]
"""(round, drafts) -> draft -> seconds of its answers, to the same prompts in the same order in all rounds."""


def race(
    drafts: Sequence[str],
    measure: Measure,
    *,
    margin: float,
    most_rounds: int,
    longest_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, int]:
    """(the draft that wins, rounds that were measured).

    drafts     the usual one first.
    margin     from 1: the usual draft stays unless another is so many times as fast.
    longest_s  no round begins so many seconds after the first, by the clock.
    """
    began, left, rounds = clock(), list(drafts), list[Mapping[str, Sequence[float]]]()
    while True:
        rounds.append(measure(len(rounds), left))
        times = {draft: np.array([seconds[draft] for seconds in rounds]) for draft in left}
        if drafts[0] in times:
            times[drafts[0]] /= margin
        leader = min(left, key=lambda draft: times[draft].sum())
        bounds = {draft: _bounds(times[draft], times[leader]) for draft in left if draft != leader}
        left = [draft for draft in left if draft == leader or bounds[draft][0] <= 1]
        near = all(bounds[draft][1] < margin for draft in left if draft != leader)
        if near or len(rounds) >= most_rounds or clock() - began >= longest_s:
            return leader, len(rounds)


def compare(seconds: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float]:
    """(how many times as long as the others all answers together take, its standard error).

    seconds, others  f64[rounds, prompts], in pairs.

    Cochran 1977, "Sampling Techniques": the combined ratio estimate; strata are the prompts. They are given,
    so a draft that is better on some of them is no noise; what differs between rounds is. One round cannot
    tell these apart: then all that differs counts, and the error is too large rather than too small. Without
    times to compare it is infinite.
    """
    together = others.sum(axis=1, keepdims=True)
    if not together.all():  # answers of one token, which the prompt's own call gives
        return 1.0, inf
    ratio = float(seconds.sum() / together.sum())
    apart = (seconds - ratio * others) / together  # by round: its pace is common to both
    samples = apart if len(apart) > 1 else apart.T
    if len(samples) < 2:
        return ratio, inf
    return ratio, sqrt(samples.var(axis=0, ddof=1).sum() * len(samples)) / len(apart)


def _bounds(seconds: NDArray[np.float64], others: NDArray[np.float64]) -> tuple[float, float]:
    ratio, error = compare(seconds, others)
    return ratio - SURE * error, ratio + SURE * error
