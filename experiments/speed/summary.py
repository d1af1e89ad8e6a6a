"""What the records of an evaluation come to: each model's ways, with their passes, times and agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from experiments.kit.results import Record, Results
from experiments.speed.decoding import PLAIN, Way


@dataclass(frozen=True, slots=True)
class Row:
    """A model in one way at a temperature: passes and seconds per token, and how many texts are plain's.

    speeds  of each text, how many times plain decoding's speed.
    agree   the share of tokens that the output after loop 1, 2, ... names as the last one does.
    """

    model: Record
    way: Way
    temperature: float
    passes: float
    token_s: float
    speeds: Sequence[float]
    same: int
    texts: int
    agree: Sequence[float]

    @property
    def name(self) -> str:
        """Of the model."""
        return str(self.model["model"])

    @property
    def loops(self) -> int:
        """R."""
        return int(self.model["loops"])

    @property
    def speed(self) -> float:
        """Times plain decoding of the same model, in the median text."""
        return median(self.speeds)

    @property
    def early(self) -> int | None:
        """d1, where it is fixed and there is nothing else that guesses."""
        head, _, loop = self.way.partition("early=")
        return int(loop) if head == "speed:" and loop.isdigit() else None

    @property
    def formula(self) -> float | None:
        """Passes per token by a * d1 + (1 - a) * R."""
        if self.early is None or not self.agree:
            return None
        right = self.agree[self.early - 1]
        return right * self.early + (1 - right) * self.loops


class Summary:
    """All rows of a results.jsonl."""

    def __init__(self, results: Results) -> None:
        self.models = results.of("model")
        self.rows = [row for model in self.models for row in _rows(results, model)]

    def of(self, family: str, *, temperature: float = 0.0) -> list[Row]:
        """The rows of a family of models."""
        return [row for row in self.rows if row.model["family"] == family and row.temperature == temperature]

    def row(self, name: str, way: Way, *, temperature: float = 0.0) -> Row:
        """The row of a model and a way."""
        (found,) = [
            row for row in self.rows if (row.name, row.way, row.temperature) == (name, way, temperature)
        ]
        return found


def _rows(results: Results, model: Record) -> list[Row]:
    found = []
    texts = results.of("text", model=model["model"])
    plain = {(one["number"], one["temperature"]): one for one in texts if one["way"] == PLAIN}
    for way in dict.fromkeys(one["way"] for one in texts):
        for temperature in dict.fromkeys(one["temperature"] for one in texts):
            some = [one for one in texts if (one["way"], one["temperature"]) == (way, temperature)]
            if not some:
                continue
            weights = [max(1, one["tokens"] - 1) for one in some]
            own = [plain[one["number"], temperature] for one in some]
            agreed = [one.get("agree", []) for one in own]
            found.append(
                Row(
                    model=model,
                    way=way,
                    temperature=temperature,
                    passes=_mean([one["passes"] for one in some], weights),
                    token_s=_mean([one["token_s"] for one in some], weights),
                    speeds=[one["token_s"] / other["token_s"] for one, other in zip(own, some, strict=True)],
                    same=sum(one["same"] for one in some),
                    texts=len(some),
                    agree=[_mean(column, weights) for column in zip(*agreed, strict=True)],
                )
            )
    return found


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
