"""Whether two samples are of one law: the energy distance, judged by permutations.

Energy distance: Székely & Rizzo 2004. Permutations are drawn until `enough` of them are as far apart as the
samples are, or `most` were drawn (Besag & Clifford 1991): p is exact either way, and cheap where it is large.
Holm 1979 keeps the rate at which any of a table's tests raises a false alarm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

ALARM_RATE = 0.05
"""Of a whole table."""
ENOUGH, BLOCK = 20, 250


def energy_test(one: torch.Tensor, two: torch.Tensor, *, most: int, seed: int = 0) -> tuple[float, float]:
    """(energy distance >= 0, p) of samples [n, ...] and [m, ...].

    p is uniform or larger if both are of one law; the least that it can be is 1 / (most + 1).
    """
    return grouped_energy_test(one[None], two[None], most=most, seed=seed)


def grouped_energy_test(
    one: torch.Tensor, two: torch.Tensor, *, most: int, seed: int = 0
) -> tuple[float, float]:
    """(sum of the groups' energy distances, p) of samples [G, n, ...] and [G, m, ...].

    Samples change places within their group alone: p is of "both are of one law in every group".
    """
    points = torch.cat([one.flatten(2), two.flatten(2)], 1).double()
    distances = torch.cdist(points, points)  # [G, n + m, n + m]
    num, other = one.shape[1], two.shape[1]
    signs = torch.cat([torch.full((num,), 1 / num), torch.full((other,), -1 / other)]).double()
    random = torch.Generator().manual_seed(seed)
    energy = float(-(signs @ distances @ signs).sum())
    drawn = further = 0
    while drawn < most:
        number = min(BLOCK, most - drawn)
        shuffled = signs[torch.rand(len(points), number, num + other, generator=random).argsort(2)]
        sums = -(shuffled @ distances * shuffled).sum((0, 2))
        # A hair below, so that rounding does not make a permutation of the same sum a nearer one.
        hits = sums >= energy * (1 - 1e-12)
        needed = ENOUGH - further
        if int(hits.sum()) >= needed:
            return energy, ENOUGH / (drawn + int(hits.cumsum(0).ge(needed).nonzero()[0]) + 1)
        drawn, further = drawn + number, further + int(hits.sum())
    return energy, (further + 1) / (most + 1)


def permutations_for(num_tests: int, rate: float) -> int:
    """So many that the least p, times the number of tests, is half of the alarm rate."""
    return round(2 * num_tests / rate)


def holm(values: Sequence[float]) -> list[float]:
    """p-values such that alarms at those below a rate are, with at most that chance, false in any of them."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for rank, number in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - rank) * values[number]))
        adjusted[number] = highest
    return adjusted
