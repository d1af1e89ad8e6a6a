"""Drafts only as deep as they pay: the clock and the record of another drafter decide, none at all included.

The length of a draft from its rate of acceptance and its price: Leviathan, Kalman & Matias 2022,
arXiv:2211.17192, section 3.5. There both are given; here they are measured while the text is written.

    propose  at most as many levels as have given the most tokens per second,
                 (1 + kept[L]) / (t(nodes[L]) + levels[L] * t_draft)  for L = 0, 1, 2, ...
    observe  learn t, t_draft, and what drafts cut at L levels have been like. A draft of more levels tells
             about all shorter ones, for it would have begun with them
    probe    now and then a draft as long as the drafter likes. What probes cost beyond the best choice may
             not exceed a share of all time (`PROBING`)

The draw stays valid: how deep a tree may be depends on earlier steps and on the clock, not on its tokens.

Deviations. Averages forget, instead of a fixed rate of acceptance; kept[L] is counted, not a power of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log
from time import perf_counter
from typing import Any

import numpy as np

from outpace.core.contracts import Ask, Drafter, RowScores, Step
from outpace.core.tree import Draw, TokenTree

MOST = 32  # levels that are told apart
FIRST_PLAIN = 2  # steps without a draft, for the price of a call of one node
FIRST_PROBES = 3
PROBING = 0.03
RATE = 0.1  # so that some ten steps make a change
INSTANT = 1e-9  # of a clock too coarse
OUTLIER = 1.0  # of the logarithm of a time: an interrupted call says nothing about its price


class PacedState:
    """One row: the drafter's state, and whether its last step had a draft."""

    __slots__ = ("drafting", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.drafting = False


class Paced:
    """Another drafter's trees, cut to the depth that pays; root-only where none does.

    inner  a drafter whose trees cost time by the level, such as a draft model.
    clock  seconds.
    """

    def __init__(self, inner: Drafter, *, clock: Callable[[], float] = perf_counter) -> None:
        self.inner = inner
        self.draws: frozenset[Draw] = getattr(inner, "draws", frozenset())
        self.reads_top: int = getattr(inner, "reads_top", 0)
        self.branches: bool = getattr(inner, "branches", False)
        self._clock = clock
        self._record = _Record()
        self._prices: dict[int, _Prices] = {}  # for 1 row, 2 and 3, 4 to 7, ...
        self._debt_s = 0.0  # what probes have cost and other steps not yet made up for
        self._step: _Proposal | None = None

    def start(self, prompt: Sequence[int], scores: RowScores) -> PacedState:
        """The drafter's state."""
        self._step = None
        return PacedState(self.inner.start(prompt, scores))

    def propose(self, states: Sequence[PacedState], asks: Sequence[Ask]) -> list[TokenTree]:
        """The drafter's trees, of a depth that pays."""
        prices = self._prices.setdefault(len(asks).bit_length(), _Prices())
        best, best_s = self._record.best(prices)
        if prices.num_plain < FIRST_PLAIN:
            depth = 0
        else:
            depth = MOST if prices.num_probes < FIRST_PROBES or self._debt_s <= 0 else best
        began = self._clock()
        trees = [TokenTree.root(ask.root) for ask in asks]
        if depth:
            limited = [replace(ask, depth=min(ask.depth, depth)) for ask in asks]
            trees = self.inner.propose([state.inner for state in states], limited)
        proposed = self._clock()
        limit = min(depth, *(min(ask.depth, ask.budget) for ask in asks))
        self._step = _Proposal(prices, depth, limit, began, proposed, best_s)
        return trees

    def observe(self, states: Sequence[PacedState], steps: Sequence[Step]) -> list[PacedState]:
        """Time the step, and count what was kept of it."""
        began, step, self._step = self._clock(), self._step, None
        inner = self.inner.observe([state.inner for state in states], steps)
        for state, one in zip(states, inner, strict=True):
            state.inner = one
        if step is not None:
            now = self._clock()
            step.prices.learn_call(max(one.tree.num_nodes for one in steps), began - step.proposed)
            levels = self._record.levels([one.tree.shape.height for one in steps], step.limit)
            # The call that catches up with a text says nothing about the next one's price.
            if levels and all(state.drafting for state in states):
                step.prices.learn_draft((step.proposed - step.began + now - began) / levels)
            self._record.learn(steps, step.limit, levels)
            step.prices.num_probes += step.depth == MOST
            self._pay(step, now - step.began, sum(len(one.tokens) for one in steps) / len(steps))
            for state in states:
                state.drafting = step.depth > 0
        return list(states)

    def stop(self, state: PacedState) -> None:
        """Give back what the drafter's state holds."""
        self.inner.stop(state.inner)

    def _pay(self, step: _Proposal, seconds: float, tokens: float) -> None:
        if step.depth == MOST:
            self._debt_s += seconds - tokens * step.best_s
        else:
            self._debt_s -= PROBING * seconds
        self._debt_s = max(0.0, self._debt_s)


class _Proposal:
    """What `observe` has to know of a `propose`: how deep trees could be (`limit`: of all rows), and when."""

    __slots__ = ("began", "best_s", "depth", "limit", "prices", "proposed")

    def __init__(
        self, prices: _Prices, depth: int, limit: int, began: float, proposed: float, best_s: float
    ) -> None:
        self.prices = prices
        self.depth = depth
        self.limit = limit
        self.began = began
        self.proposed = proposed
        self.best_s = best_s  # seconds per token of the depth that pays best, before this step


class _Prices:
    """Seconds of the target's calls, by nodes, and of a level of the drafter's, for about so many rows."""

    def __init__(self) -> None:
        self.draft_s: float | None = None
        self.num_plain = self.num_probes = 0
        self._calls: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._num_drafts = 0

    def learn_call(self, num_nodes: int, seconds: float) -> None:
        """A call of so many nodes a row took so long. What it says of the machine's mood holds for all."""
        self.num_plain += num_nodes == 1
        count = self._counts[num_nodes] = self._counts.get(num_nodes, 0) + 1
        if count == 1:
            self._calls[num_nodes] = max(seconds, INSTANT)
            return
        error = _error(seconds, self._calls[num_nodes])
        self._calls = {size: known * exp(RATE * error) for size, known in self._calls.items()}
        self._calls[num_nodes] *= exp(max(0.0, 1 / count - RATE) * error)

    def learn_draft(self, seconds: float) -> None:
        """A level took so long."""
        self._num_drafts += 1
        if self.draft_s is None:
            self.draft_s = max(seconds, INSTANT)
        self.draft_s *= exp(max(RATE, 1 / self._num_drafts) * _error(seconds, self.draft_s))

    def call_s(self, num_nodes: float) -> float:
        """Seconds of a call; straight lines between sizes that have been seen, flat beyond."""
        sizes = sorted(self._calls)
        # A larger block never costs less: what says otherwise is noise of the clock.
        seconds = np.maximum.accumulate([self._calls[size] for size in sizes])
        return float(np.interp(num_nodes, sizes, seconds))


class _Record:
    """For L = 1 to MOST what drafts cut at L levels are like: tokens kept, nodes, levels drafted."""

    def __init__(self) -> None:
        self._averages = np.zeros((MOST + 1, 3))
        self._counts = np.zeros(MOST + 1, np.int64)
        self._highest = 0

    def levels(self, heights: Sequence[int], limit: int) -> int:
        """How many levels were drafted for trees of these heights: where a tree has ended by itself, its last
        one came to nothing, unless trees are never higher."""
        self._highest = max(self._highest, *heights)
        return min(limit, self._highest, max(heights) + 1)

    def learn(self, steps: Sequence[Step], limit: int, levels: int) -> None:
        """A step whose trees could have up to `limit` levels; depths beyond it learn nothing."""
        for depth in range(1, min(limit, MOST) + 1):
            kept = sum(min(depth, len(step.verdict.path)) for step in steps) / len(steps)
            nodes = max(sum(level <= depth for level in step.tree.shape.depths) for step in steps)
            self._counts[depth] += 1
            rate = max(RATE, 1 / self._counts[depth])
            self._averages[depth] += rate * ((kept, nodes, min(depth, levels)) - self._averages[depth])

    def best(self, prices: _Prices) -> tuple[int, float]:
        """(the number of levels that pays best, its seconds per token); (0, 0.0) before anything is known."""
        if not prices.num_plain:
            return 0, 0.0
        best, best_s = 0, prices.call_s(1)
        if prices.draft_s is not None:
            for depth in self._counts[1:].nonzero()[0] + 1:
                kept, nodes, levels = self._averages[depth]
                token_s = (prices.call_s(nodes) + levels * prices.draft_s) / (1 + kept)
                if token_s < best_s:
                    best, best_s = int(depth), token_s
        return best, best_s


def _error(seconds: float, known: float) -> float:
    return max(-OUTLIER, min(OUTLIER, log(max(seconds, INSTANT) / known)))
