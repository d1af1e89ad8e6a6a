"""Drafts only as deep as they pay: the clock and the record of another drafter decide, none at all included.

The length of a draft from its rate of acceptance and its price: Leviathan, Kalman & Matias 2022,
arXiv:2211.17192, section 3.5. There both are given; here they are measured while the text is written.

    propose  at most as many levels as have given the most tokens per second,
                 (1 + kept[L]) / (t(nodes[L]) + t_draft(levels[L]))  for L = 0, 1, 2, ...
    observe  learn t, t_draft, and what drafts cut at L levels have been like. A draft of more levels tells
             about all shorter ones, for it would have begun with them
    stop     a chain may end before the first token that is less likely than theta as well. It tells about
             every larger theta in the same way, so that the best pair of L and theta is looked for
    probe    now and then a longer draft: twice what the last one had kept, or a few levels, and with no
             theta. What probes cost beyond the best choice may not exceed a share of all time (`PROBING`)
    begin    with a draft. Until a step without one has been timed, it is thought to cost no more than the
             smallest call so far. It is tried when drafts may not pay, else when the share above allows it

The draw stays valid: how deep a tree may be depends on earlier steps and on the clock, not on its tokens.

Deviations. A fixed theta, as elsewhere, takes the draft model's word for how often it is right; a measured
one does not. Averages forget, instead of a fixed rate of acceptance; kept[L] is counted, not a power of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import exp, log
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.trees.chain import OpenChain

MOST = 32  # levels that are told apart
THETAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
FIRST_LEVELS = 4  # of the first draft
LEAST_LEVELS = 2  # of a probe
PROBING = 0.03
CREDIT = 1.0  # calls without a draft: what probes may cost at once, the first draft left out
FIRST_PLAIN = 2  # steps without a draft that are tried although drafts may pay
SURE = 0.5  # of the price of a call: drafts that cost less per token will pay
RATE = 0.1  # so that some ten steps make a change; what a draft says after many steps without counts for
MOST_RATE = 0.5  # as many, up to this share
INSTANT = 1e-9  # of a clock too coarse
OUTLIER = 1.0  # of the logarithm of a time: an interrupted call says nothing about its price

Sizes = TypeVar("Sizes", float, NDArray[np.float64])


class PacedState:
    """One row: the drafter's state, whether its last step had a draft, and whether there was one."""

    __slots__ = ("begun", "drafting", "inner")

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.drafting = self.begun = False


class Paced:
    """Another drafter's trees, cut to the depth that pays; root-only where none does.

    inner  a drafter whose trees cost time by the level, such as a draft model.
    chain  its policy, if that is one whose theta may be chosen too.
    clock  seconds.
    """

    def __init__(
        self, inner: Drafter, *, chain: OpenChain | None = None, clock: Callable[[], float] = perf_counter
    ) -> None:
        self.inner = inner
        self.traits = inner.traits
        self._clock = clock
        self._chain = chain
        self._record = _Record(THETAS if chain else (0.0,))
        self._prices: dict[int, _Prices] = {}  # for 1 row, 2 and 3, 4 to 7, ...
        self._levels = FIRST_LEVELS  # of the next probe
        self._again = False  # the last probe was right but late: one more tells the price
        self._age = 0  # steps since a draft was timed
        self._step: _Proposal | None = None

    def start(self, prompt: Prompt) -> PacedState:
        """The drafter's state."""
        self._step = None
        return PacedState(self.inner.start(prompt))

    def propose(self, states: Sequence[PacedState], asks: Sequence[Ask]) -> list[TokenTree]:
        """The drafter's trees, of a depth that pays."""
        prices = self._prices.setdefault(len(asks).bit_length(), _Prices())
        depth, theta, best_s = self._record.best(prices)
        probe = False
        begun = all(state.begun for state in states)
        if begun and prices.want_plain(best_s):
            depth = 0
        elif prices.debt_s <= 0 or self._again:
            probe, depth, theta = True, max(depth, self._levels), 0.0
        if self._chain is not None:
            self._chain.min_p = theta
        began = self._clock()
        trees = [TokenTree.root(ask.root) for ask in asks]
        if depth:
            limited = [replace(ask, depth=min(ask.depth, depth)) for ask in asks]
            trees = self.inner.propose([state.inner for state in states], limited)
        proposed = self._clock()
        limits = [min(depth, ask.depth, ask.budget) for ask in asks]
        self._step = _Proposal(prices, probe, limits, theta, began, proposed, best_s)
        return trees

    def observe(self, states: Sequence[PacedState], steps: Sequence[Step]) -> list[PacedState]:
        """Time the step, and count what was kept of it."""
        began, step, self._step = self._clock(), self._step, None
        inner = self.inner.observe([state.inner for state in states], steps)
        for state, one in zip(states, inner, strict=True):
            state.inner = one
        if step is not None:
            now = self._clock()
            draft_s = step.proposed - step.began + now - began
            levels = self._record.levels([one.tree.shape.height for one in steps], max(step.limits))
            rate = min(MOST_RATE, 1 - (1 - RATE) ** (1 + self._age))
            late = not all(state.drafting for state in states)
            kept = max(len(one.verdict.path) for one in steps)
            self._again = step.probe and late and kept > 0
            if step.probe:
                self._levels = min(MOST, max(LEAST_LEVELS, 2 * kept))
            if levels and not late:  # what catches up with a text says nothing about the next draft's price
                step.prices.draft.learn(levels, draft_s, rate)
            cuts = [self._record.cuts(one.tree) for one in steps]
            self._record.learn(steps, cuts, min(step.limits), step.theta, levels, rate)
            self._age = 0 if levels and not late else self._age + 1
            if all(state.begun for state in states):
                step.prices.call_took(max(one.tree.num_nodes for one in steps), began - step.proposed)
                num_tokens = sum(len(one.tokens) for one in steps) / len(steps)
                step.prices.book(now - step.began, step.best_s * num_tokens if step.probe else None)
            elif levels and not kept:  # a prompt's own call: what it cost is no price
                step.prices.owe(draft_s)
            for state, limit in zip(states, step.limits, strict=True):
                state.drafting = limit > 0
        for state in states:
            state.begun = True
        return list(states)

    def stop(self, state: PacedState) -> None:
        """Give back what the drafter's state holds."""
        self.inner.stop(state.inner)


class _Proposal:
    """What `observe` has to know of a `propose`.

    limits    how deep each row's tree could be. theta: what stopped a chain before.
    best_s    seconds per token of the depth that pays best, before this step.
    """

    __slots__ = ("began", "best_s", "limits", "prices", "probe", "proposed", "theta")

    def __init__(
        self,
        prices: _Prices,
        probe: bool,
        limits: Sequence[int],
        theta: float,
        began: float,
        proposed: float,
        best_s: float,
    ) -> None:
        self.prices = prices
        self.probe = probe
        self.limits = limits
        self.theta = theta
        self.began = began
        self.proposed = proposed
        self.best_s = best_s


class _Prices:
    """What the target's calls cost, by nodes, and drafts, by levels, for about so many rows."""

    def __init__(self) -> None:
        self.num_plain = 0
        self.call = _Curve({})
        self.draft = _Curve({0: 0.0})  # drafts cost nothing until one has been timed
        self.debt_s = 0.0  # what probes have cost and other steps not yet made up for
        self._total_s: float | None = None  # of all steps but the first, which may have read a prompt

    def call_took(self, size: int, seconds: float) -> None:
        """A call of so many nodes."""
        self.call.learn(size, seconds, RATE)
        self.num_plain += size == 1

    def want_plain(self, best_s: float) -> bool:
        """Whether a step without a draft should tell its price now; drafts cost best_s per token."""
        if self._total_s is None or self.num_plain >= FIRST_PLAIN:
            return False
        most_s = self.call.at(1)
        unsure = self.num_plain == 0 and best_s > SURE * most_s
        return unsure or (self.num_plain + 1) * (most_s - best_s) <= PROBING * self._total_s

    def owe(self, seconds: float) -> None:
        """A first draft that came to nothing."""
        self.debt_s = max(0.0, self.debt_s) + seconds

    def book(self, seconds: float, best_s: float | None) -> None:
        """A step; where it was a probe, best_s is what its tokens would have cost otherwise."""
        if self._total_s is None:
            self._total_s, self.debt_s = 0.0, -CREDIT * self.call.at(1)
            return
        cost_s = -PROBING * seconds if best_s is None else seconds - best_s
        self.debt_s = max(min(self.debt_s, 0.0), self.debt_s + cost_s)
        self._total_s += seconds


class _Curve:
    """Seconds by size: averages of what has been seen, straight lines between."""

    def __init__(self, known: dict[int, float]) -> None:
        self._known = known
        self._counts: dict[int, int] = {}

    @property
    def learnt(self) -> bool:
        """Whether anything has been seen."""
        return bool(self._counts)

    def learn(self, size: int, seconds: float, rate: float) -> None:
        """This size took so long. What that says of the machine's mood holds for all sizes."""
        seconds = max(seconds, INSTANT)
        count = self._counts[size] = self._counts.get(size, 0) + 1
        if count == 1:
            self._known[size] = seconds
            return
        error = max(-OUTLIER, min(OUTLIER, log(seconds / self._known[size])))
        self._known = {other: known * exp(rate * error) for other, known in self._known.items()}
        self._known[size] *= exp(max(0.0, 1 / count - rate) * error)

    def at(self, size: Sizes) -> Sizes:
        """Seconds of a size: below what has been seen as its first, beyond it along the last line."""
        sizes = sorted(self._known)
        # A larger size never costs less: what says otherwise is noise of the clock.
        seconds = np.maximum.accumulate([self._known[size] for size in sizes])
        within: Sizes = np.interp(size, sizes, seconds)
        if len(sizes) == 1:
            return within
        slope = (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2])
        return within + slope * np.maximum(0.0, size - sizes[-1])


class _Record:
    """For every theta and L = 1 to MOST what drafts cut so are like: tokens kept, nodes, levels drafted."""

    def __init__(self, thetas: Sequence[float]) -> None:
        self._thetas = np.array(thetas)
        self._averages = np.zeros((3, len(thetas), MOST))
        self._counts = np.zeros((len(thetas), MOST), np.int64)
        self._highest = 1

    def levels(self, heights: Sequence[int], limit: int) -> int:
        """How many levels were drafted for trees of these heights.

        Where a tree has ended before the limit one level more came to nothing, unless none is ever higher.
        """
        self._highest = max(self._highest, *heights)
        return min(limit, self._highest, max(heights) + 1)

    def cuts(self, tree: TokenTree) -> NDArray[np.int64]:
        """i64[thetas]: after how many levels each theta would have ended a tree; MOST where it would not."""
        if len(self._thetas) == 1 or tree.num_nodes == 1:
            return np.full(len(self._thetas), MOST)
        unsure = np.array(OpenChain.sure(tree)) < self._thetas[:, None]
        return np.where(unsure.any(axis=1), unsure.argmax(axis=1), MOST)

    def learn(
        self,
        steps: Sequence[Step],
        cuts: Sequence[NDArray[np.int64]],
        limit: int,
        theta: float,
        levels: int,
        rate: float,
    ) -> None:
        """A step whose trees could have `limit` levels; deeper ones and smaller thetas learn nothing."""
        limit = min(limit, MOST)
        depths = np.arange(1, limit + 1)
        kept, nodes, drafted = np.zeros((3, len(self._thetas), limit))
        for one, cut in zip(steps, cuts, strict=True):
            shown = np.minimum(depths, cut[:, None])
            kept += np.minimum(shown, len(one.verdict.path)) / len(steps)
            nodes = np.maximum(nodes, np.searchsorted(np.sort(one.tree.shape.depths), shown, side="right"))
            drafted = np.maximum(drafted, np.minimum(np.minimum(depths, levels), cut[:, None] + 1))
        told = self._thetas >= theta
        counts, averages = self._counts[told, :limit] + 1, self._averages[:, told, :limit]
        self._counts[told, :limit] = counts
        new = np.array([kept, nodes, drafted])[:, told]
        self._averages[:, told, :limit] += np.maximum(rate, 1 / counts) * (new - averages)

    def best(self, prices: _Prices) -> tuple[int, float, float]:
        """(levels, theta, seconds per token) of what pays best; (0, 0.0, 0.0) before anything is known."""
        if not prices.call.learnt:
            return 0, 0.0, 0.0
        kept, nodes, levels = self._averages
        token_s = (prices.call.at(nodes) + prices.draft.at(levels)) / (1 + kept)
        token_s[self._counts == 0] = np.inf
        which, depth = np.unravel_index(token_s.argmin(), token_s.shape)
        best_s, plain_s = float(token_s[which, depth]), float(prices.call.at(1))
        return (int(depth) + 1, float(self._thetas[which]), best_s) if best_s < plain_s else (0, 0.0, plain_s)
