"""Train the proposal heads of a table, on a frozen base or with a finetuned one.

A training may begin with the model and the heads of one before it, so that what was learned there is not
learned again, and then reads on where that ended. Runs that were killed go on from their last checkpoint;
those that are done are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.kit.trainings import duration_of, is_finished, precision_of, train_within
from outpace.heads.file import read_heads
from outpace.progress import Progress
from outpace.train.bases import Base
from outpace.train.blockwise import MODEL_FOLDER, Regime, train_blockwise
from outpace.train.checkpoint import RUN
from outpace.train.loop import Plan

HEADS = "heads"


@dataclass(frozen=True, slots=True)
class Training:
    """One training of heads. A folder of its name holds heads, and the model where that was finetuned.

    data    what is learned from. base: the folder of the model that was trained before all heads.
    before  the training whose model and heads it goes on with; None: it begins with the base, and no heads.
            Heads on the frozen model of a training that finetuned it have that before them.
    method  how they draft.
    """

    regime: Regime
    data: str
    num_heads: int
    base: str
    before: Training | None = None
    method: str = "blockwise"

    @property
    def name(self) -> str:
        """As folders and records have it."""
        kind = self.regime if self.method == "blockwise" else self.method
        return f"{kind}-{self.data}-{self.num_heads}"

    @property
    def model_name(self) -> str:
        """What the model is called that the heads belong to."""
        if self.regime == "finetuned":
            return self.name
        return self.before.model_name if self.before else self.base

    def heads(self, folder: Path) -> Path:
        """Where its heads lie in the folder of a scale."""
        return folder / HEADS / self.name

    def begin(self, folder: Path) -> Path:
        """The model that it begins with."""
        return self.before.model(folder) if self.before else folder / self.base

    def model(self, folder: Path) -> Path:
        """Where the model lies that the heads belong to."""
        return self.begin(folder) if self.regime == "frozen" else self.heads(folder) / MODEL_FOLDER


def trainings_of(data: str, base: str, *, frozen: int, finetuned: Iterable[int]) -> list[Training]:
    """All on one kind of data. Heads on a frozen base share no loss: the most of them serve every k."""
    found, before = [Training("frozen", data, frozen, base)], None
    for count in sorted(finetuned):
        before = Training("finetuned", data, count, base, before)
        found.append(before)
    return found


def train_heads(
    training: Training,
    folder: Path,
    open_base: Callable[[Path], Base],
    batches: Callable[[int], Any],
    *,
    lr: float,
    minutes: float,
    steps: int | None,
    seed: int,
    **options: Any,
) -> None:
    """One training into the folder of a scale, for so many minutes or steps; done already: nothing.

    open_base  the model of a folder. batches: a batch of each step. options: of `train_blockwise`, besides.
    """
    if is_trained(training, folder, open_base, seed=seed):
        return
    begin, where = training.begin(folder), training.heads(folder)
    first, finetunes = _steps_before(training, folder), training.regime == "finetuned"
    batches(first)  # whatever has to be read for it is no part of the pace

    def run(into: Path, steps: int, progress: Progress | None) -> None:
        train_blockwise(
            open_base(begin),
            lambda step: batches(first + step),
            into,
            num_heads=training.num_heads,
            regime=training.regime,
            heads_per_step=training.num_heads,  # small vocabularies: a head costs little beside the model
            precision=precision_of(folder / training.base) if finetunes else "float32",
            start=read_heads(training.before.heads(folder)) if training.before else None,
            plan=Plan(steps, lr, seed=seed),
            progress=progress,
            **options,
        )

    train_within(minutes, where, run, steps=steps)


def is_trained(training: Training, folder: Path, open_base: Callable[[Path], Base], *, seed: int) -> bool:
    """Whether a training is done; an OutpaceError if it is, with another seed or model."""
    where, begin = training.heads(folder), training.begin(folder)
    return (where / RUN).exists() and is_finished(where, seed=seed, model=open_base(begin).name)


def _steps_before(training: Training, folder: Path) -> int:
    """Of all trainings that it goes on with: their batches have been read."""
    steps, before = 0, training.before
    while before is not None:
        steps += duration_of(before.heads(folder))["steps"]
        before = before.before
    return steps
