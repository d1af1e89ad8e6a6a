"""Figures of every setting, out of the records of results.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.kit.results import Record, Results
from experiments.translation import bleu
from experiments.translation.base import BASE
from experiments.translation.settings import NONE

SETTING = ("model", "regime", "data", "k", "draft", "rule")
Times = dict[int, float]
"""Segment -> seconds."""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting.

    block   tokens per call, of all segments together.
    bleu    and its difference to the greedy output of the base: middle, low, high.
    speed   the time of greedy by the same model in the same engine, over its own; of all timed segments
            together, and of each.
    """

    model: str
    regime: str
    data: str
    k: int
    draft: str
    rule: str
    record: Record
    block: float
    bleu: float
    difference: tuple[float, float, float]
    speed: float
    speeds: Sequence[float]
    times: Times


class Summary:
    """All rows, in the order in which they were measured."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._times: dict[tuple, Times] = {}
        for record in results.of("time"):
            self._times.setdefault(_key(record), {})[record["segment"]] = record["wall_s"]
        outputs = results.of("outputs")
        self._counts = {
            record["model"]: np.array(record["counts"]) for record in outputs if record["draft"] == "none"
        }
        self.rows = [self._row(record) for record in outputs]

    def greedy(self, model: str) -> Row:
        """Of a model, without heads."""
        return next(row for row in self.rows if row.model == model and row.draft == "none")

    def drafted(self) -> list[Row]:
        """All but greedy."""
        return [row for row in self.rows if row.draft != "none"]

    def chains(self, rule: str) -> list[Row]:
        """The paper's drafts, under a rule."""
        return [row for row in self.rows if row.draft == "chain" and row.rule == rule]

    def other_speed(self, row: Row, draft: str) -> float:
        """How many times as fast a row is as transformers or CTranslate2 with the same model, greedily."""
        other = self._times[_key({"model": row.model, **NONE, "draft": draft})]
        return sum(other.values()) / sum(row.times[number] for number in other)

    def same(self, model: str, draft: str) -> tuple[int, int]:
        """How many outputs of transformers or CTranslate2 are greedy's, and of how many."""
        records = self._results.of("time", model=model, draft=draft)
        return sum(record["same"] for record in records), len(records)

    def _row(self, record: Record) -> Row:
        model = record["model"]
        counts, base = np.array(record["counts"]), self._counts[BASE]
        times = self._times[_key(record)]
        greedy = self._times[_key({"model": model, **NONE})]
        speeds = [greedy[number] / times[number] for number in times]
        return Row(
            **{name: record[name] for name in SETTING},
            record=record,
            block=sum(record["tokens"]) / sum(record["calls"]),
            bleu=bleu.bleu(counts),
            difference=bleu.difference(counts, base),
            speed=sum(greedy[number] for number in times) / sum(times.values()),
            speeds=speeds,
            times=times,
        )


def _key(record: Record) -> tuple:
    return tuple(record[name] for name in SETTING)
