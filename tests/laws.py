"""The G-test: does a sample follow a law that is known exactly?

G = 2 sum observed log(observed / expected) is chi-squared under the law (Wilks 1938). Cells expected fewer
than 5 times are pooled, and a sample outside the law's support has p-value 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

FALSE_ALARM_RATE = 1e-4
"""Of all G-tests of one file together; a file with n of them rejects below FALSE_ALARM_RATE / n."""


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
