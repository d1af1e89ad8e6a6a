"""Drafts only as deep as they pay: what steps took and what was kept decide, none at all included.

The length of a draft from its rate of acceptance and its price: Leviathan, Kalman & Matias 2022,
arXiv:2211.17192, section 3.5. There both are given; here they are measured while the text is written.

    plan     at most as many levels as have given the most tokens per second,
                 (1 + kept[L]) / (t(nodes[L]) + t_draft(levels[L]))  for L = 0, 1, 2, ...
             and, for a drafter that `stops`, the theta below which it is not sure enough to go on
    learn    t, t_draft, and what drafts cut at L levels have been like (`depths.py`)
    probe    now and then a longer draft: twice what the last one had kept, or a few levels, with no theta.
             What probes cost beyond the best choice may not exceed a share of all time (`PROBING`)
    rows     where several share a call all drafters are held back: a node is no longer nearly free there.
             A single row's are if they say so (`Traits.paced`)
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
CREDIT = 1.0  # calls without a draft: what probes may cost at once
PRECISION = 4  # binary digits of a call's size that are told apart
FIRST_PLAIN = 2  # steps without a draft that are tried although drafts may pay
FRESH = 16  # steps without a draft, after which the best depth is looked for anew: each tells little
SURE = 0.5  # of the price of a call: drafts that cost less per token will pay
RATE = 0.1  # of forgetting: some ten steps make a change
MOST_RATE = 0.5  # a draft after many steps without one counts for as many of them, up to this share


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for in a step, and what `Pace.learn` has to know of it.

    asks    the rows' asks, cut to the depth that pays; limits: how deep each row's tree may be.
    begun   whether every row has read its prompt.
    late    whether a row had no step before, or none with a draft: a drafter may have to catch up.
    best_s  seconds per token of the depth that pays best.
    """

    asks: list[Ask]
    prices: Prices
    begun: bool
    late: bool
    probe: bool
    theta: float
    best_s: float
    limits: list[int]


class Pace:
    """The ledger of one drafter at one target, which all its requests share."""

    def __init__(self, traits: Traits) -> None:
        self._paced = traits.paced
        self._stops = traits.stops
        self._depths = Depths(THETAS if traits.stops else (0.0,))
        self._single, self._several = Prices(), Prices()  # of calls of one row and of more
        self._levels = FIRST_LEVELS  # of the next probe
        self._again = False  # the last probe was right, but `late`: one more tells the price
        self._age = 0  # steps since a draft was timed
        self._told = FRESH  # steps learnt from, those with a draft counted FRESH times

    def plan(self, asks: Sequence[Ask], *, late: bool) -> Plan | None:
        """Cut the asks to a depth that pays; None where drafts are taken as they come. `late`: see Plan."""
        if self._paced == "never" or (self._paced == "shared" and len(asks) == 1):
            return None
        prices = self._single if len(asks) == 1 else self._several
        if prices.call.learnt and self._told - prices.known >= FRESH:
            prices.best = self._depths.best(prices.call.at, prices.draft.at, len(asks))
            prices.known = self._told
        depth, theta, best_s = prices.best
        begun, probe = not any(ask.unread for ask in asks), False
        if begun and prices.want_plain(best_s, len(asks)):
            depth = 0
        elif (prices.debt_s <= 0 and (depth > 0 or prices.owed_s <= 0)) or self._again:
            probe, depth, theta = True, max(depth, self._levels), 0.0
        cut = [
            replace(ask, depth=min(ask.depth, depth), min_p=theta if self._stops else None) for ask in asks
        ]
        limits = [min(ask.depth, ask.budget) for ask in cut]
        return Plan(cut, prices, begun, late, probe, theta, best_s, limits)

    def learn(self, plan: Plan, steps: Sequence[Step], times: StepTimes) -> None:
        """What a planned step took, and what was kept of it."""
        prices, limits = plan.prices, plan.limits
        if plan.begun and not any(limits):
            self._age += 1
            self._told += 1
            prices.call_took(len(steps), times.call_s, is_plain=True)
            prices.book(times.draft_s + times.call_s, None, paying=False)
            return
        self._told += FRESH
        levels = self._depths.levels([one.tree.shape.height for one in steps], max(limits))
        rate = min(MOST_RATE, 1 - (1 - RATE) ** (1 + self._age))
        kept = max(len(one.verdict.path) for one in steps)
        self._again = plan.probe and plan.late and kept > 0 and not prices.draft.learnt
        if plan.probe:
            self._levels = min(MOST, max(LEAST_LEVELS, 2 * kept))
        # What catches up with a text costs more than the next draft: it is at most so dear.
        if levels and (not plan.late or (prices.draft.learnt and times.draft_s < prices.draft.at(levels))):
            prices.draft.learn(levels, times.draft_s, rate)
        cuts = [self._depths.cuts(one.tree) for one in steps]
        self._depths.learn(steps, cuts, min(limits), plan.theta, levels, rate)
        self._age = 0 if levels and not plan.late else self._age + 1
        if plan.begun:
            size = sum(one.tree.num_nodes for one in steps)
            prices.call_took(size, times.call_s, is_plain=size == len(steps))
            num_tokens = sum(len(one.tokens) for one in steps) / len(steps)
            seconds = times.draft_s + times.call_s
            prices.book(seconds, plan.best_s * num_tokens if plan.probe else None)
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
        self.owed_s = 0.0  # what first drafts have cost, which read prompts: no matter while drafts pay
        self.debt_s = 0.0  # what probes have cost and other steps not yet made up for
        self._total_s: float | None = None  # of all steps but the first, which may have read a prompt

    def call_took(self, size: int, seconds: float, *, is_plain: bool) -> None:
        """A call of so many nodes; is_plain: without a draft."""
        step = 1 << max(0, size.bit_length() - PRECISION)
        self.call.learn(-(-size // step) * step, seconds, RATE)
        self.num_plain += is_plain

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
        cost_s = -PROBING * seconds if best_s is None else seconds - best_s
        if self.owed_s > 0 and not paying:
            self.owed_s += cost_s
        else:
            self.debt_s = max(min(self.debt_s, 0.0), self.debt_s + cost_s)
        self._total_s += seconds


_PACES = Beside(lambda drafter: Pace(drafter.traits))


def pace_of(drafter: Drafter) -> Pace:
    """The ledger of a drafter, the same for all its requests."""
    return _PACES.of(drafter)
