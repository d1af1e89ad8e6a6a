"""Does a sample follow a law that is known exactly, and does a rule, all its coins and drafts enumerated?

The G-test: G = 2 sum observed log(observed / expected) is chi-squared under the law (Wilks 1938). Cells
expected fewer than 5 times are pooled, and a sample outside the law's support has p-value 0.

Numbers: Kolmogorov and Smirnov's distance D of distribution functions, with bounds of the p-value that hold
for every n: 2 exp(-2 n D^2) from a law (Massart 1990), 2 exp(-n D^2) between two samples of n >= 458 each
(Wei & Dudley 2012). Counts: Chernoff's bound, 2 exp(-n KL(observed share, chance)).

Enumeration: `over_coins` runs a function of coins once for every outcome of them, `drafts_of` lists what a
node's children can be. Together they give a rule's law to the last digit, without sampling.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np

from outpace.core.tree import Draw
from outpace.rules.walk import NodeRule, Toss

FALSE_ALARM_RATE = 1e-4
"""Of all G-tests of one file together; a file with n of them rejects below FALSE_ALARM_RATE / n."""

T = TypeVar("T")


def g_test(sample: Iterable[Hashable], law: Mapping[Any, float]) -> float:
    """The p-value of a sample under a law."""
    counts = Counter(sample)
    total = sum(counts.values())
    if any(law.get(value, 0.0) <= 0 for value in counts):
        return 0.0
    cells: list[tuple[float, float]] = []
    pooled = [0.0, 0.0]
    for value, mass in sorted(law.items(), key=lambda item: item[1]):
        if mass * total < 5 or 0 < pooled[1] < 5:
            pooled = [pooled[0] + counts[value], pooled[1] + mass * total]
        else:
            cells.append((counts[value], mass * total))
    if pooled[1] > 0:
        cells.append((pooled[0], pooled[1]))
    g = 2 * sum(observed * math.log(observed / expected) for observed, expected in cells if observed)
    return chi2_tail(g, len(cells) - 1)


def chi2_tail(x: float, degrees: int) -> float:
    """P(chi-squared with so many degrees of freedom > x)."""
    if degrees < 1 or x <= 0:
        return 1.0
    # The recurrence Q(a + 1, y) = Q(a, y) + y^a e^-y / Gamma(a + 1) from a = 1/2 or 1 on.
    y = x / 2
    a = 0.5 if degrees % 2 else 1.0
    tail = math.erfc(math.sqrt(y)) if degrees % 2 else math.exp(-y)
    while a < degrees / 2:
        tail += math.exp(a * math.log(y) - y - math.lgamma(a + 1))
        a += 1
    return min(tail, 1.0)


def ks_test(sample: np.ndarray, distribution: Callable[[np.ndarray], np.ndarray]) -> float:
    """A bound of the p-value of numbers [n] under a law that is given by its distribution function."""
    num = len(sample)
    below = distribution(np.sort(sample))
    distance = max((np.arange(1, num + 1) / num - below).max(), (below - np.arange(num) / num).max())
    return min(1.0, 2 * math.exp(-2 * num * distance**2))


def ks_two_samples(one: np.ndarray, two: np.ndarray) -> float:
    """A bound of the p-value of numbers [n] and [n] being of one law."""
    assert len(one) == len(two) >= 458
    both = np.sort(np.concatenate([one, two]))
    shares = [np.searchsorted(np.sort(sample), both, side="right") / len(one) for sample in (one, two)]
    return min(1.0, 2 * math.exp(-len(one) * np.abs(shares[0] - shares[1]).max() ** 2))


def binomial_test(hits: int, num: int, chance: float) -> float:
    """A bound of the p-value of so many hits in `num` tries."""
    if not 0 < chance < 1:
        return float(hits == num * chance)
    share = hits / num
    parts = [(share, chance), (1 - share, 1 - chance)]
    return min(1.0, 2 * math.exp(-num * sum(p * math.log(p / q) for p, q in parts if p > 0)))


def normal(values: np.ndarray) -> np.ndarray:
    """The standard normal distribution function."""
    return np.array([math.erfc(-value) / 2 for value in (values / math.sqrt(2)).tolist()])


def over_coins(decide: Callable[[Toss], T]) -> Iterator[tuple[float, T]]:
    """(probability, result) of every run of a function of coins that differs in how they fell."""
    waiting: list[list[bool]] = [[]]
    while waiting:
        fell: list[bool] = []
        given, mass = waiting.pop(), 1.0

        def toss(chance: float, given: list[bool] = given, fell: list[bool] = fell) -> bool:
            nonlocal mass
            up = given[len(fell)] if len(fell) < len(given) else chance > 0
            if len(fell) >= len(given) and 0 < chance < 1:
                waiting.append([*fell, False])
            mass *= min(max(chance, 0.0), 1.0) if up else 1 - min(max(chance, 0.0), 1.0)
            fell.append(up)
            return up

        result = decide(toss)
        yield mass, result


def drafts_of(q: np.ndarray, draw: Draw, k: int) -> dict[tuple[int, ...], float]:
    """The law of a node's k children, in order, from the meaning of each draw."""
    support = [int(x) for x in np.flatnonzero(q)]
    if draw == "iid":
        return {xs: math.prod(q[x] for x in xs) for xs in itertools.product(support, repeat=k)}
    if draw == "without_replacement":
        return {
            xs: math.prod(q[x] / sum(q[y] for y in support if y not in xs[:i]) for i, x in enumerate(xs))
            for xs in itertools.permutations(support, min(k, len(support)))
        }
    assert draw == "hub"
    hub = int(np.argmax(q))
    if k == 1 or len(support) == 1:
        return {(x,): q[x] for x in support}
    others = [x for x in support if x != hub]
    rest = sum(q[x] for x in others)
    return {(x, hub): q[x] for x in others} | {(hub, x): q[hub] * q[x] / rest for x in others}


def node_law(rule: NodeRule, p: np.ndarray, q: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """The exact law of the token after a node with k children, and the chance that a child is kept."""
    law, kept_mass = np.zeros(len(p)), 0.0
    for drafts, drafted in drafts_of(q, rule.draw, k).items():
        for mass, kept in over_coins(partial(rule.keep, p, q, drafts)):
            if isinstance(kept, int):
                law[drafts[kept]] += drafted * mass
                kept_mass += drafted * mass
            else:
                law += drafted * mass * kept / (kept.sum() or 1.0)
    return law, kept_mass


def best_acceptance(p: np.ndarray, drafts: Mapping[tuple[int, ...], float]) -> float:
    """The most that any rule can keep of these drafts: the least cut between drafts and tokens.

    A cut pays p(x) for the tokens of a set, and for all drafts that have a token outside it.
    """
    sets = itertools.product([False, True], repeat=len(p))
    return min(
        float(p[list(chosen)].sum())
        + sum(mass for xs, mass in drafts.items() if not all(chosen[x] for x in xs))
        for chosen in sets
    )
