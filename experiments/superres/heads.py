"""Train the proposal heads of the table: on the frozen base once, and with a finetuned base for every k.

Finetuning for a k begins with the model and the heads of the k before it, and reads on where that ended.
Runs that were killed go on from their last checkpoint; those that are done are left alone. Data are real
pictures ("gold") or the base's own greedy ones ("own").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.kit.trainings import (
    duration_of,
    precision_of,
    short_fingerprint,
    steps_before,
    train_within,
)
from experiments.superres import pictures
from experiments.superres.base import BASE
from experiments.superres.own import OWN, write_own
from experiments.superres.pictures import Pictures
from experiments.superres.scales import Scale
from outpace.formats.heads import read_heads
from outpace.progress import Progress
from outpace.targets.pixel_model import NUM_LEVELS, PixelModel
from outpace.train.bases_pixel import PixelBase
from outpace.train.blockwise import MODEL_FOLDER, Regime, train_blockwise
from outpace.train.loop import Plan

HEADS = "heads"
Data = Literal["gold", "own"]
LR: dict[Regime, float] = {"frozen": 2e-3, "finetuned": 1e-3}
HEADS_FIRST = 0.2  # of the steps that finetune: an untrained head has nothing to teach the model
INTENSITIES = np.arange(NUM_LEVELS)
"""What heads draft: never START, so that the distance of two drafts is one of intensities."""


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

    def begin(self, folder: Path) -> Path:
        """The model that it begins with."""
        return self.before.model(folder) if self.before else folder / BASE

    def model(self, folder: Path) -> Path:
        """Where the model lies that they belong to."""
        return folder / BASE if self.regime == "frozen" else self.heads(folder) / MODEL_FOLDER


def trainings(scale: Scale) -> list[Training]:
    """All of a scale. Heads on a frozen base do not touch each other's losses: those for the largest k do."""
    found = [Training("frozen", "gold", max(scale.num_heads)), *_finetuned("gold", scale.num_heads)]
    if scale.own_pictures:
        found += [Training("frozen", "own", max(scale.num_heads)), *_finetuned("own", scale.own_num_heads)]
    return found


def _finetuned(data: Data, num_heads: Sequence[int]) -> list[Training]:
    found: list[Training] = []
    for count in sorted(num_heads):
        found.append(Training("finetuned", data, count, found[-1] if found else None))
    return found


def train_heads(patches: Path, folder: Path, scale: Scale, *, device: str = "cpu", seed: int = 0) -> None:
    """Every training of a scale into folder/heads, the base being in folder/base."""
    data = {"gold": pictures.read(patches, "train", scale.config)}
    if scale.own_pictures:
        model = PixelModel.open(folder / BASE).to(device)
        data["own"] = write_own(patches, folder / OWN / short_fingerprint(model), model, scale)
    for training in trainings(scale):
        _train(training, data[training.data], folder, scale, device, seed)


def _train(training: Training, data: Pictures, folder: Path, scale: Scale, device: str, seed: int) -> None:
    jitter = scale.jitter if training.data == "gold" else 0.0  # own pictures have drifted already
    first = steps_before(training, folder)

    def run(where: Path, steps: int, progress: Progress | None) -> None:
        model = PixelModel.open(training.begin(folder)).to(device)
        train_blockwise(
            PixelBase(model, name=f"pixel {short_fingerprint(model)}"),
            lambda step: data.batch(scale.batch, seed, first + step, jitter),
            where,
            num_heads=training.num_heads,
            regime=training.regime,
            plan=Plan(steps, LR[training.regime], seed=seed),
            heads_per_step=training.num_heads,  # 256 intensities: a head costs little beside the model
            heads_first=HEADS_FIRST if training.regime == "finetuned" else 0.0,
            precision=precision_of(folder / BASE) if training.regime == "finetuned" else "float32",
            start=read_heads(training.before.heads(folder)) if training.before else None,
            token_ids=INTENSITIES,
            data=data.data_hash,
            progress=progress,
        )

    minutes, steps = scale.frozen_minutes, scale.steps
    if training.regime == "finetuned":
        least = Training("finetuned", "gold", min(scale.num_heads))
        minutes = scale.finetuned_minutes if training == least else 0
        # As many steps for each k: they take longer the more heads there are.
        steps = steps if training == least else duration_of(least.heads(folder))["steps"]
    train_within(minutes, training.heads(folder), run, steps=steps)
