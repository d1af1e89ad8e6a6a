"""What the records come to: for each way tokens per call, acceptance by depth, and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from statistics import median

from experiments.heads.evaluate import PLAIN, Way
from experiments.kit.results import Record, Results

OPEN = ("writing", "roleplay", "stem", "humanities")
"""Categories of Spec-Bench whose answers repeat little of their prompts."""


@dataclass(frozen=True, slots=True)
class Row:
    """A way on all texts.

    block       tokens per call; open_block: on open text alone, None where there is none.
    drafted     nodes per call. depths: by depth, how often a draft that was tried there was right.
    speeds      of each text, times plain decoding's. slowest: the median of the slowest category.
    """

    way: Way
    block: float
    open_block: float | None
    drafted: float
    depths: Sequence[float]
    draft_share: float
    speeds: Sequence[float]
    slowest: tuple[str, float]
    same: int
    texts: int

    @property
    def speed(self) -> float:
        """In the median text."""
        return median(self.speeds)


def rows(results: Results) -> list[Row]:
    """One for each way, in the order in which they were measured."""
    texts = results.of("text")
    plain = {one["number"]: _token_s(one) for one in texts if (*one["way"],) == PLAIN}
    ways = list(dict.fromkeys((*one["way"],) for one in texts))
    return [_row(way, [one for one in texts if (*one["way"],) == way], plain) for way in ways]


def long_blocks(results: Results) -> dict[str, list[float]]:
    """Drafter -> tokens per call in each window of the long answers."""
    found: dict[str, list[float]] = {}
    for way in dict.fromkeys((*one["way"],) for one in results.of("long")):
        windows = [one["windows"] for one in results.of("long") if (*one["way"],) == way]
        sums = [
            [sum(pair) for pair in zip(*some, strict=True)]
            for some in zip_longest(*windows, fillvalue=[0, 0])
        ]
        found[way[0]] = [tokens / calls for tokens, calls in sums if calls]
    return found


def _row(way: Way, texts: Sequence[Record], plain: dict[int, float]) -> Row:
    calls = sum(one["calls"] for one in texts)
    tried, kept = (
        [sum(some) for some in zip_longest(*(one[key] for one in texts), fillvalue=0)]
        for key in ("tried", "kept")
    )
    speeds = {one["number"]: plain[one["number"]] / _token_s(one) for one in texts}
    by_category: dict[str, list[float]] = {}
    for one in texts:
        by_category.setdefault(one["category"], []).append(speeds[one["number"]])
    slowest = min(((name, median(some)) for name, some in by_category.items()), key=lambda pair: pair[1])
    open_texts = [one for one in texts if one["category"] in OPEN]
    return Row(
        way,
        _block(texts),
        _block(open_texts) if open_texts else None,
        sum(one["drafted"] for one in texts) / max(1, calls),
        [right / max(1, all_of_them) for right, all_of_them in zip(kept, tried, strict=True)],
        sum(one["draft_s"] for one in texts) / max(1e-9, sum(one["seconds"] for one in texts)),
        list(speeds.values()),
        slowest,
        sum(one["same"] for one in texts),
        len(texts),
    )


def _block(texts: Sequence[Record]) -> float:
    return float(sum(one["tokens"] for one in texts) / max(1, sum(one["calls"] for one in texts)))


def _token_s(one: Record) -> float:
    return max(float(one["seconds"]), 1e-9) / max(1, one["tokens"])
