"""What is measured: heads, how many, how they draft, what is accepted; and the models that they draft for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.kit.heads import Training
from experiments.kit.results import Record, Results
from experiments.kit.trainings import duration_of, short_fingerprint
from outpace.progress import progress_bar
from outpace.train.checkpoint import RUN

EXACT = "match"


@dataclass(frozen=True, slots=True)
class Setting:
    """Heads of a training, how many of them are used, how they draft, a rule.

    alpha  what n-grams weigh beside them; None: there are none.
    """

    training: Training
    k: int
    draft: str
    rule: str = EXACT
    alpha: float | None = None

    @property
    def record(self) -> Record:
        """As records have it."""
        record: Record = {"regime": self.training.regime, "data": self.training.data, "k": self.k}
        record |= {"draft": self.draft, "rule": self.rule}
        return record if self.alpha is None else record | {"alpha": self.alpha}


def settings_of(
    training: Training, num_heads: Sequence[int], ways: Iterable[tuple[str, str]]
) -> list[Setting]:
    """Rows of the table for a training, in each way (draft, rule): frozen heads serve every k."""
    counts = num_heads if training.regime == "frozen" else (training.num_heads,)
    return [Setting(training, k, draft, rule) for k in counts for draft, rule in ways]


class Subject:
    """A model, and the settings that draft for it.

    where    the model's folder. trained: all that has been trained for it, with folders.
    """

    model: Any

    def __init__(self, folder: Path, settings: Sequence[Setting]) -> None:
        first = settings[0].training
        self.settings = settings
        self.where = first.model(folder)
        self.name = first.model_name
        self.trained = {one.training.name: one.training.heads(folder) for one in settings}
        if self.name == first.base:
            self.trained[self.name] = self.where

    def describe(self, results: Results, facts: Callable[[], Record]) -> None:
        """The model's record; results of another model of its name are refused. facts: measured if needed."""
        fingerprint = short_fingerprint(self.model)
        if not results.knows(self.name, fingerprint):
            trained = {name: _trained(where) for name, where in self.trained.items()}
            record = {"kind": "model", "model": self.name, "fingerprint": fingerprint}
            results.add({**record, "trainings": trained, **facts()})

    def margin(
        self, tokens: Sequence[int], others: Sequence[int], logits: Callable[[int], Tensor]
    ) -> float | None:
        """By how much the model prefers `tokens` to `others` where they first differ; None: nowhere.

        logits  f[V] of the model at a place, behind the tokens before it. Of two outputs that are both greedy
                up to rounding, the margin is about the size of a rounding error.
        """
        if tokens == others:
            return None
        at = next(place for place, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1])
        with torch.no_grad():
            said = logits(at)
        return abs(float(said[tokens[at]] - said[others[at]]))


def by_model(settings: Iterable[Setting], folder: Path) -> list[list[Setting]]:
    """The settings of each model together."""
    found: dict[Path, list[Setting]] = {}
    for setting in settings:
        found.setdefault(setting.training.model(folder), []).append(setting)
    return list(found.values())


def one_by_one(tasks: Sequence[tuple[str, Callable[[], None]]]) -> None:
    """Do one after another, with a bar that says which."""
    with progress_bar() as progress:
        for done, (label, task) in enumerate(tasks):
            if progress is not None:
                progress(done, len(tasks), label)
            task()


def _trained(folder: Path) -> Record:
    run = json.loads((folder / RUN).read_text())
    return duration_of(folder) | {key: run[key] for key in ("dev_bleu", "passes") if key in run}
