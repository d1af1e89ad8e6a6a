"""Drafts only as deep as they pay: what steps took and what was kept decide, none at all included.

The length of a draft from its rate of acceptance and its price: Leviathan, Kalman & Matias 2022,
arXiv:2211.17192, section 3.5. There both are given; here they are measured while the text is written.

    plan     at most as many levels as have given the most tokens per second,
                 (1 + kept[L]) / (t(nodes[L]) + t_draft(levels[L]))  for L = 0, 1, 2, ...
             and, for a drafter that `stops`, the theta below which it is not sure enough to go on
    learn    t, t_draft, and what drafts cut at L levels have been like (`depths.py`)
    probe    now and then a longer draft: twice what the last one had kept, or a few levels, with no theta.
             What probes cost beyond the best choice may not exceed a share of all time (`PROBING`), which
             falls while one after another is in vain
    rows     where several share a call all drafters are held back: a node is no longer nearly free there.
             A single row's are if they say so (`Traits.paced`)
    late     after steps without a draft the drafter may have to read what it has not seen, a whole prompt at
             worst. That has a price by tokens, learnt too: it is paid only if what a draft saves, for as many
             tokens as are still wanted, is more. A probe's is within the share above at once
    certain  tokens that a grammar forces (`Ask.known`) are no guesses: they are drafted at any depth. Levels
             count behind them, and such a row tells what a call costs but nothing about drafts
    begin    with a draft. Until a step without a draft has been timed, such a step is thought to cost no more
             than the smallest call so far. One is tried when drafts may not pay, or the share above allows it

The draw stays valid: how deep a tree may be depends on earlier steps and on the clock, not on its tokens.

Deviations. A fixed theta, as elsewhere, takes the draft model's word for how often it is right; a measured
one does not. Averages forget, instead of a fixed rate of acceptance; kept[L] is counted, not a power of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from outpace.core.beside import Beside
from outpace.core.contracts import Drafter
from outpace.core.steps import Ask, Step, StepTimes
from outpace.core.traits import Traits
from outpace.pricing.curve import Curve
from outpace.pricing.depths import MOST, Depths

THETAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
FIRST_LEVELS = 4  # of the first draft
LEAST_LEVELS = 2  # of a probe
PROBING = 0.015
IN_VAIN = 0.8  # times the share, after a probe that cost more than it brought
LEAST_PROBING = PROBING / 4
CREDIT = 1.0  # calls without a draft: what probes may cost at once
PRECISION = 4  # binary digits of a size that are told apart
FIRST_PLAIN = 2  # steps without a draft that are tried although drafts may pay
FRESH = 16  # steps without a draft, after which the best depth is looked for anew: each tells little
SURE = 0.5  # of the price of a call: drafts that cost less per token will pay
LINEAR = 16  # tokens from which on reading twice as many takes twice as long
RATE = 0.1  # of forgetting: some ten steps make a change
MOST_RATE = 0.5  # a draft after many steps without one counts for as many of them, up to this share


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for in a step, and what `Pace.learn` has to know of it.

    asks    the rows' asks, cut to the depth that pays; limits: how deep each row's tree may be.
    known   how many tokens are certain in each row: the limits are those of what is drafted behind them.
    begun   whether every row has read its prompt.
    lag     tokens that a drafter may have to catch up with, of rows whose last step had no draft.
    best_s  seconds per token of the depth that pays best.
    """

    asks: list[Ask]
    prices: Prices
    begun: bool
    lag: int
    probe: bool
    theta: float
    best_s: float
    limits: list[int]
    known: list[int]


class Pace:
    """The ledger of one drafter at one target, which all its requests share."""

    def __init__(self, traits: Traits) -> None:
        self._paced = traits.paced
        self._stops = traits.stops
        self._depths = Depths(THETAS if traits.stops else (0.0,))
        self._single, self._several = Prices(), Prices()  # of calls of one row and of more
        self._levels = FIRST_LEVELS  # of the next probe
        self._again = False  # the last probe was right, but had to catch up: one more tells the price
        self._age = 0  # steps since a draft was timed
        self._told = FRESH  # steps learnt from, those with a draft counted FRESH times

    def plan(self, asks: Sequence[Ask], *, lag: int) -> Plan | None:
        """Cut the asks to a depth that pays; None where drafts are taken as they come. `lag`: see Plan."""
        if self._paced == "never" or (self._paced == "shared" and len(asks) == 1):
            return None
        prices = self._single if len(asks) == 1 else self._several
        if prices.call.learnt and self._told - prices.known >= FRESH:
            prices.best = self._depths.best(prices.call.at, prices.draft.at, len(asks))
            prices.known = self._told
        depth, theta, best_s = prices.best
        begun, probe = not any(ask.unread for ask in asks), False
        wanted = sum(ask.depth for ask in asks) / len(asks)
        if begun and prices.want_plain(best_s, len(asks)):
            depth = 0
        elif self._again or prices.can_probe(lag, paying=depth > 0):
            probe, depth, theta = True, max(depth, self._levels), 0.0
        elif depth > 0 and prices.catch_up_s(lag) > wanted * (prices.call.at(len(asks)) - best_s):
            depth = 0
        known, min_p = [len(ask.known) for ask in asks], theta if self._stops else None
        cut = [
            replace(ask, depth=min(ask.depth, certain + depth), min_p=min_p)
            for ask, certain in zip(asks, known, strict=True)
        ]
        limits = [min(ask.depth, ask.budget) - certain for ask, certain in zip(cut, known, strict=True)]
        return Plan(cut, prices, begun, lag, probe, theta, best_s, limits, known)

    def learn(self, plan: Plan, steps: Sequence[Step], times: StepTimes) -> None:
        """What a planned step took, and what was kept of it."""
        prices, size = plan.prices, sum(one.tree.num_nodes for one in steps)
        is_plain = size == len(steps)
        told = [row for row, certain in enumerate(plan.known) if not certain]
        steps, limits = [steps[row] for row in told], [plan.limits[row] for row in told]
        if not told:
            if plan.begun:
                prices.call_took(size, times.call_s, is_plain=is_plain)
                prices.book(times.draft_s + times.call_s, None)
            return
        if plan.begun and not any(limits):
            self._age += 1
            self._told += 1
            prices.call_took(size, times.call_s, is_plain=is_plain)
            prices.book(times.draft_s + times.call_s, None, paying=False)
            return
        self._told += FRESH
        levels = self._depths.levels([one.tree.shape.height for one in steps], max(limits))
        rate = min(MOST_RATE, 1 - (1 - RATE) ** (1 + self._age))
        kept = max(len(one.verdict.path) for one in steps)
        self._again = plan.probe and plan.lag > 0 and kept > 0 and not prices.draft.learnt
        if plan.probe:
            self._levels = min(MOST, max(LEAST_LEVELS, 2 * kept))
        caught_up_s = prices.draft_took(levels, plan.lag, times.draft_s, rate) if levels else 0.0
        cuts = [self._depths.cuts(one.tree) for one in steps]
        self._depths.learn(steps, cuts, min(limits), plan.theta, levels, rate)
        self._age = 0 if levels and not plan.lag else self._age + 1
        if plan.begun:
            prices.call_took(size, times.call_s, is_plain=is_plain)
            num_tokens = sum(len(one.tokens) for one in steps) / len(steps)
            seconds = times.draft_s + times.call_s
            prices.book(seconds, plan.best_s * num_tokens if plan.probe else None)
            if not plan.probe:
                prices.owe(caught_up_s)
        elif levels:  # a prompt's own call is no price, but the draft has cost what it has not saved
            prices.owe(times.draft_s - plan.best_s * kept)


class Prices:
    """What the target's calls cost, by nodes of all rows, and drafts, by levels."""

    def __init__(self) -> None:
        self.num_plain = 0
        self.best = 0, 0.0, 0.0  # depth, theta and seconds per token
        self.known = 0  # what had been learnt by then
        self.call = Curve({})
        self.draft = Curve({0: 0.0})  # drafts cost nothing until one has been timed
        self.reading = Curve({0: 0.0})  # of a drafter that catches up with a text, by tokens
        self._longest = 0  # of these texts
        self.owed_s = 0.0  # what first drafts have cost, which read prompts: no matter while drafts pay
        self.debt_s = 0.0  # what probes have cost and other steps not yet made up for
        self._share = PROBING
        self._total_s: float | None = None  # of all steps but the first, which may have read a prompt

    def call_took(self, size: int, seconds: float, *, is_plain: bool) -> None:
        """A call of so many nodes; is_plain: without a draft."""
        mood = self.call.learn(rounded(size), seconds, RATE)
        for other in (self.draft, self.reading):  # of the same machine, behind the same text
            other.scale(mood)
        self.num_plain += is_plain

    def draft_took(self, levels: int, lag: int, seconds: float, rate: float) -> float:
        """A draft of so many levels, behind a lag; returns what catching up has cost of it."""
        if not lag:
            self.draft.learn(levels, seconds, rate)
            return 0.0
        usual = self.draft.at(levels)  # nothing, before one has been timed: the reading is most of it
        if self.draft.learnt and seconds < usual:
            self.draft.learn(levels, seconds, rate)
        reading_s = max(0.0, seconds - usual)
        self.reading.learn(rounded(lag), reading_s, MOST_RATE)
        self._longest = max(self._longest, rounded(lag))
        return reading_s

    def catch_up_s(self, lag: int) -> float:
        """What a drafter takes to read so much. Longer than any so far, it takes as long for each token.

        Unless these were few: a call of two tokens takes as long as one of three.
        """
        longest = self._longest
        read_s = self.reading.at(float(min(lag, longest))) if lag else 0.0
        return read_s * lag / longest if lag > longest >= LINEAR else read_s

    def can_probe(self, lag: int, *, paying: bool) -> bool:
        """Whether a probe may be paid for now, after such a lag; paying: drafts are made anyway."""
        if self.debt_s > 0 or (self.owed_s > 0 and not paying):
            return False
        return self.catch_up_s(lag) <= PROBING * (self._total_s or 0.0)

    def want_plain(self, best_s: float, rows: int) -> bool:
        """Whether a step without a draft should tell its price now; drafts cost best_s per token."""
        if self._total_s is None or self.num_plain >= FIRST_PLAIN:
            return False
        most_s = self.call.at(rows)
        unsure = self.num_plain == 0 and best_s > SURE * most_s
        return unsure or (self.num_plain + 1) * (most_s - best_s) <= PROBING * self._total_s

    def owe(self, seconds: float) -> None:
        """A first draft cost so much more than it saved."""
        self.owed_s = max(0.0, self.owed_s + seconds)

    def book(self, seconds: float, best_s: float | None, *, paying: bool = True) -> None:
        """A step; where it was a probe, best_s is what its tokens would have cost otherwise."""
        if self._total_s is None:
            self._total_s, self.debt_s = 0.0, -CREDIT * self.call.at(1)
            return
        cost_s = -self._share * seconds if best_s is None else seconds - best_s
        if best_s is not None:
            self._share = max(LEAST_PROBING, IN_VAIN * self._share) if cost_s > 0 else PROBING
        if self.owed_s > 0 and not paying:
            self.owed_s += cost_s
        else:
            self.debt_s = max(min(self.debt_s, 0.0), self.debt_s + cost_s)
        self._total_s += seconds


def rounded(size: int) -> int:
    """A size as it is told apart: no two that differ by less than an eighth."""
    step: int = 1 << max(0, size.bit_length() - PRECISION)
    return -(-size // step) * step


_PACES = Beside(lambda drafter: Pace(drafter.traits))


def pace_of(drafter: Drafter) -> Pace:
    """The ledger of a drafter, the same for all its requests."""
    return _PACES.of(drafter)
