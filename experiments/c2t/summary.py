"""What the records come to: for each pair and way, accepted length, candidates and speed; and the savings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from experiments.c2t.evaluate import EAGLE_2, OURS, PLAIN, Way
from experiments.kit.results import Record, Results

MIDDLE = 0.25, 0.75  # of the accepted lengths that EAGLE-2's sweep spans


@dataclass(frozen=True, slots=True)
class Point:
    """A way on all texts of a pair.

    length      tokens accepted per call, without the one that the call adds.
    candidates  tokens drafted per token of text. speeds: of each text, times plain decoding's.
    """

    way: Way
    length: float
    candidates: float
    speeds: Sequence[float]
    same: int
    texts: int

    @property
    def speed(self) -> float:
        """In the median text."""
        return median(self.speeds)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The points of a pair, and what is known of it."""

    pair: Record
    points: Sequence[Point]

    @property
    def name(self) -> str:
        """Of the pair."""
        return str(self.pair["pair"])

    def of(self, policy: str, classifier: str = "") -> list[Point]:
        """Those of a policy, by candidates."""
        some = [point for point in self.points if point.way[:2] == (policy, classifier)]
        return sorted(some, key=lambda point: point.candidates)

    def classifiers(self, policy: str = OURS) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(point.way[1] for point in self.points if point.way[0] == policy))

    def saving(self, point: Point, policy: str = EAGLE_2, classifier: str = "") -> float | None:
        """The share of another policy's candidates that a point does without at its accepted length.

        Straight lines between that policy's points; None for a length that it does not reach or fall to, or
        has without a draft.
        """
        known = self.of(policy, classifier)
        lengths = np.maximum.accumulate([one.length for one in known])
        if not lengths[0] <= point.length <= lengths[-1]:
            return None
        needed = float(np.interp(point.length, lengths, [one.candidates for one in known]))
        return 1 - point.candidates / needed if needed else None

    def middle(self, policy: str, classifier: str, beside: str = EAGLE_2) -> list[float]:
        """The savings of the points in the middle of the other policy's lengths."""
        lengths = [one.length for one in self.of(beside)]
        low, high = (min(lengths) + share * (max(lengths) - min(lengths)) for share in MIDDLE)
        some = [one for one in self.of(policy, classifier) if low <= one.length <= high]
        savings = [self.saving(one, beside) for one in some]
        return [saving for saving in savings if saving is not None]


def sweeps(results: Results) -> list[Sweep]:
    """One for each pair."""
    found = []
    for pair in results.of("pair"):
        texts = results.of("text", pair=pair["pair"])
        plain = {one["number"]: one for one in texts if one["way"][0] == PLAIN}
        ways = list(dict.fromkeys((*one["way"],) for one in texts))
        found.append(Sweep(pair, [_point(way, texts, plain) for way in ways]))
    return found


def _point(way: Way, texts: Sequence[Record], plain: dict[int, Record]) -> Point:
    some = [one for one in texts if (*one["way"],) == way]
    total = {key: sum(one[key] for one in some) for key in ("tokens", "calls", "drafted", "accepted")}
    return Point(
        way,
        total["accepted"] / total["calls"],
        total["drafted"] / total["tokens"],
        [_token_s(plain[one["number"]]) / _token_s(one) for one in some],
        sum(one["same"] for one in some),
        len(some),
    )


def _token_s(one: Record) -> float:
    return float(one["seconds"]) / max(1, one["tokens"])
