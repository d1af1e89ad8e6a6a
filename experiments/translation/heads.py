"""Train the proposal heads of the table: on a frozen base once, and with a finetuned one for every k.

Each on gold targets and on distilled ones, for which there is a base of its own. Finetuning for a k begins
with the model and the heads of the k before it, so that what was learned for that is not learned again,
and reads on where that ended.
Runs that were killed go on from their last checkpoint; those that are done are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from experiments.kit.trainings import (
    is_finished,
    precision_of,
    short_fingerprint,
    steps_before,
    train_within,
)
from experiments.translation import corpus
from experiments.translation.base import BASE, DISTILLED
from experiments.translation.distil import distilled_segments
from experiments.translation.model import Batches, Examples, load_model
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.scales import Scale
from outpace.formats.heads import read_heads
from outpace.progress import Progress
from outpace.train.bases import Seq2SeqBase
from outpace.train.blockwise import MODEL_FOLDER, Regime, train_blockwise
from outpace.train.loop import Plan

HEADS = "heads"
LR_PART: dict[Regime, float] = {"frozen": 2.0, "finetuned": 0.7}
"""Of the base's learning rate."""
TOKENS_PART = 1 / 2
"""Of the base's batch: in the same time, many small steps taught heads more than few large ones."""
HEADS_FIRST = 0.2
"""Part of the steps of finetuning after which the model learns too."""

Data = Literal["gold", "distilled"]
BASES: dict[Data, str] = {"gold": BASE, "distilled": DISTILLED}


@dataclass(frozen=True, slots=True)
class Training:
    """One training of heads. A folder of its name holds heads, and the model where that was finetuned.

    before  the training whose model and heads it goes on with; None: it begins with the base, and no heads.
    """

    regime: Regime
    data: Data
    num_heads: int
    before: Training | None = None

    @property
    def name(self) -> str:
        """As folders and records have it."""
        return f"{self.regime}-{self.data}-{self.num_heads}"

    def heads(self, folder: Path) -> Path:
        """Where its heads lie in the folder of a scale."""
        return folder / HEADS / self.name

    def base(self, folder: Path) -> Path:
        """The model that was trained before all heads."""
        return folder / BASES[self.data]

    def begin(self, folder: Path) -> Path:
        """The model that it begins with."""
        return self.before.model(folder) if self.before else self.base(folder)

    def model(self, folder: Path) -> Path:
        """Where the model lies that the heads belong to."""
        return self.base(folder) if self.regime == "frozen" else self.heads(folder) / MODEL_FOLDER


def trainings(scale: Scale) -> list[Training]:
    """All of a scale. Heads on a frozen base do not touch each other's losses: those for the largest k do."""
    found = []
    for data in BASES:
        found += [Training("frozen", data, max(scale.num_heads))]
        before = None
        for count in sorted(scale.num_heads):
            before = Training("finetuned", data, count, before)
            found.append(before)
    return found


def segments_of(data: Data, corpus_folder: Path, folder: Path, scale: Scale) -> Path:
    """The file of segments that are trained on."""
    return corpus_folder / "train.tsv" if data == "gold" else distilled_segments(folder, scale)


def train_heads(
    corpus_folder: Path, folder: Path, scale: Scale, *, device: str = "cpu", seed: int = 0
) -> None:
    """Every training of a scale into folder/heads, both bases being in the folder."""

    @cache
    def batches(path: Path) -> Batches:
        return Examples.of(corpus.read(path), Pieces(folder / MODEL)).batches(
            round(TOKENS_PART * scale.tokens), seed
        )

    for training in trainings(scale):
        path = segments_of(training.data, corpus_folder, folder, scale)
        model = _name(load_model(training.begin(folder)))
        if is_finished(training.heads(folder), seed=seed, model=model):
            continue
        # Read now: with it the pace of a training would be that of its first step.
        run = partial(_train, training, folder, path, batches(path), scale, device, seed)
        minutes = scale.frozen_minutes if training.regime == "frozen" else scale.finetuned_minutes
        train_within(minutes, training.heads(folder), run, steps=scale.steps)


def _train(
    training: Training,
    folder: Path,
    segments: Path,
    batches: Batches,
    scale: Scale,
    device: str,
    seed: int,
    where: Path,
    steps: int,
    progress: Progress | None,
) -> None:
    model, first = load_model(training.begin(folder), device), steps_before(training, folder)
    train_blockwise(
        Seq2SeqBase(model, name=_name(model)),
        lambda step: batches(first + step),
        where,
        num_heads=training.num_heads,
        regime=training.regime,
        heads_per_step=training.num_heads,
        heads_first=HEADS_FIRST if training.regime == "finetuned" else 0.0,
        precision=precision_of(training.base(folder)) if training.regime == "finetuned" else "float32",
        start=read_heads(training.before.heads(folder)) if training.before else None,
        plan=Plan(steps, LR_PART[training.regime] * scale.lr, seed=seed),
        data=corpus.fingerprint(segments),
        progress=progress,
    )


def _name(model: Any) -> str:
    return f"marian {short_fingerprint(model)}"
