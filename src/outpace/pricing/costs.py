"""What one call of a target costs, by its number of nodes and the text before them: measured.

Tree sizes follow from it: a drafted node is worth its place while it adds more tokens than time. On shared
machines memory and clock change within minutes, and with them the price of a node; `LiveCosts` follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from math import log, log2
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outpace.core.call import Call, Prompt, begin
from outpace.core.contracts import Sourced, Target
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree
from outpace.pricing.clock import in_turns

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
CONTEXTS = (32, 512)
ROUNDS = 5
LARGE = 8  # nodes of a call that is large
RATE = 0.05  # so that some twenty calls make a change
OUTLIER = 1.0
MOST_TOKENS = 2**31
LONGEST_S = 1e6  # no call takes so long
NEAR = 64  # tokens of context between which costs hardly differ


class CallCosts:
    """Seconds of a call that scores M nodes of one row behind a text of C tokens.

    sizes, contexts  ascending whole numbers, the measured M and C.
    seconds          f64[contexts, sizes].
    """

    def __init__(self, sizes: ArrayLike, contexts: ArrayLike, seconds: ArrayLike) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.contexts = np.asarray(contexts, dtype=np.int64)
        # A larger block never costs less: what says otherwise is noise of the clock.
        self.seconds = np.maximum.accumulate(np.asarray(seconds, dtype=np.float64), axis=1)
        assert self.seconds.shape == (len(self.contexts), len(self.sizes))

    @classmethod
    def measure(cls, target: Target, *, rounds: int = ROUNDS) -> CallCosts:
        """Time calls of every size behind texts of the two lengths that the context allows."""
        room = target.context_length
        sizes = [size for size in SIZES if size < room] or [1]
        contexts = sorted({max(1, min(context, room - sizes[-1])) for context in CONTEXTS})
        seconds = []
        for context in contexts:
            timed = call_seconds(target, [(size, Sampling()) for size in sizes], context, rounds=rounds)
            seconds.append(timed)
        return cls(sizes, contexts, seconds)

    def learn(self, num_nodes: int, context: int, seconds: float) -> None:
        """What a call of one row has taken. Measured costs stay as they are."""

    def curve(self, max_nodes: int, context: int) -> NDArray[np.float64]:
        """f64[max_nodes]: seconds of a call of 1, 2, ... nodes; straight lines between what was timed."""
        sizes, low = np.arange(1, max_nodes + 1), self.seconds[0]
        if len(self.contexts) > 1:
            share = (context - self.contexts[0]) / (self.contexts[-1] - self.contexts[0])
            low = low + max(0.0, share) * (self.seconds[-1] - self.seconds[0])
        curve = np.interp(sizes, self.sizes, low)
        if len(self.sizes) > 1 and max_nodes > self.sizes[-1]:
            slope = (low[-1] - low[-2]) / (self.sizes[-1] - self.sizes[-2])
            curve[self.sizes[-1] :] = low[-1] + slope * (sizes[self.sizes[-1] :] - self.sizes[-1])
        return curve


class LiveCosts(CallCosts):
    """Costs that follow what calls take now: the measured ones times factors for small and large calls.

    The logarithm of (observed / measured) is taken as a line in log2 of the nodes, from 1 node to `LARGE`,
    and flat beyond; both ends learn from every call, each as far as the call's size concerns it.
    """

    def __init__(self, sizes: ArrayLike, contexts: ArrayLike, seconds: ArrayLike) -> None:
        super().__init__(sizes, contexts, seconds)
        self._small = self._large = 0.0
        self._measured: dict[int, list[float]] = {}  # curves by length of the text, for the hot path

    def learn(self, num_nodes: int, context: int, seconds: float) -> None:
        """A call of one row took so long."""
        share = min(1.0, log2(num_nodes) / log2(LARGE))
        measured = self._measured.get(context // NEAR)
        if measured is None or len(measured) < num_nodes:
            measured = super().curve(max(num_nodes, SIZES[-1]), context).tolist()
            self._measured[context // NEAR] = measured
        error = log(seconds / measured[num_nodes - 1]) - (1 - share) * self._small - share * self._large
        error = max(-OUTLIER, min(OUTLIER, error))  # an interrupted call says nothing about its price
        self._small += RATE * (1 - share) * error
        self._large += RATE * share * error

    def curve(self, max_nodes: int, context: int) -> NDArray[np.float64]:
        """As measured, times the factors."""
        share = np.minimum(1.0, np.log2(np.arange(1, max_nodes + 1)) / log2(LARGE))
        return super().curve(max_nodes, context) * np.exp((1 - share) * self._small + share * self._large)


def call_seconds(
    target: Target,
    timed: Sequence[tuple[int, Sampling]],
    context: int,
    *,
    rounds: int,
    warm: int = 1,
    calls: int = 1,
    on_round: Callable[[], None] = lambda: None,
) -> list[float]:
    """Seconds of calls of these sizes, their choices included, behind a text of `context` tokens: medians.

    The sizes take turns (see `in_turns`). Nothing is kept between calls. A target that reads a source beside
    a text is timed with its `typical_source()`.
    """
    # Any spread of ordinary ids will do: the time of a call does not depend on which tokens it scores.
    text = [at * 7919 % target.vocab_size for at in range(context + max(size for size, _ in timed))]
    source = target.typical_source() if isinstance(target, Sourced) else None
    row = begin(target, Prompt(text[:context], source))

    def call(size: int, sampling: Sampling) -> None:
        tree = TokenTree.chain(text[context], text[context + 1 : context + size])
        target.score([Call.on(row, tree)]).choose([sampling], [context])

    try:
        runs = [partial(call, *one) for one in timed]
        return in_turns(runs, rounds=rounds, warm=warm, calls=calls, on_round=on_round)
    finally:
        target.free([row])


def are_costs(arrays: Mapping[str, NDArray[Any]]) -> bool:
    """Whether arrays from a file are what CallCosts is made of."""
    if arrays.keys() != {"sizes", "contexts", "seconds"}:
        return False
    sizes, contexts, seconds = arrays["sizes"], arrays["contexts"], arrays["seconds"]
    for numbers in (sizes, contexts):
        ascending = numbers.ndim == 1 and numbers.dtype == np.int64 and (numbers[1:] > numbers[:-1]).all()
        if not ascending or not len(numbers) or numbers[0] < 1 or numbers[-1] > MOST_TOKENS:
            return False
    if seconds.dtype != np.float64 or seconds.shape != (len(contexts), len(sizes)):
        return False
    return bool(((seconds > 0) & (seconds < LONGEST_S)).all())  # which NaN is not


def straight(per_node: float, *, sizes: Sequence[int] = (1, 64)) -> CallCosts:
    """A made-up curve: a call of M nodes costs 1 + per_node (M - 1)."""
    return CallCosts(sizes, [1], [[1 + per_node * (size - 1) for size in sizes]])


def convex(costs: Sequence[float]) -> list[float]:
    """The largest convex curve below: where a step of the costs is followed by cheap nodes, they share it."""
    hull: list[int] = []
    for n in range(len(costs)):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (costs[b] - costs[a]) * (n - a) <= (costs[n] - costs[a]) * (b - a):
                break
            hull.pop()
        hull.append(n)
    return [
        costs[a] + (costs[b] - costs[a]) * (n - a) / (b - a) for a, b in pairwise(hull) for n in range(a, b)
    ] + [costs[-1]]
