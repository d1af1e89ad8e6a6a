"""The trainings of the table. Data are real pictures ("gold") or the base's own greedy ones ("own")."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.kit import heads
from experiments.kit.heads import Training, trainings_of
from experiments.kit.trainings import duration_of, short_fingerprint
from experiments.superres import pictures
from experiments.superres.base import BASE
from experiments.superres.own import OWN, write_own
from experiments.superres.pictures import Pictures
from experiments.superres.scales import Scale
from outpace.targets.pixel_model import NUM_LEVELS, PixelModel
from outpace.train.bases_pixel import PixelBase
from outpace.train.blockwise import Regime, Trunk
from outpace.train.head_losses import equal

LR: dict[Regime, float] = {"frozen": 2e-3, "finetuned": 1e-3}
HEADS_FIRST = 0.2
"""Part of the steps of finetuning after which the model learns too: new heads have nothing to teach it."""
INTENSITIES = np.arange(NUM_LEVELS)
"""What heads draft: never START, so that the distance of two drafts is one of intensities."""


def trainings(scale: Scale) -> list[Training]:
    """All of a scale."""
    most = max(scale.num_heads)
    found = trainings_of("gold", BASE, frozen=most, finetuned=scale.num_heads)
    if scale.own_pictures:
        found += trainings_of("own", BASE, frozen=most, finetuned=scale.own_num_heads)
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

    def open_base(path: Path) -> PixelBase:
        model = PixelModel.open(path).to(device)
        return PixelBase(model, name=f"pixel {short_fingerprint(model)}")

    minutes, steps = scale.frozen_minutes, scale.steps
    if training.regime == "finetuned":
        least = Training("finetuned", "gold", min(scale.num_heads), BASE)
        minutes = scale.finetuned_minutes if training == least else 0
        # As many steps for each k: they take longer the more heads there are.
        steps = steps if training == least else duration_of(least.heads(folder))["steps"]
    heads.train_heads(
        training,
        folder,
        open_base,
        lambda step: data.batch(scale.batch, seed, step, jitter),
        lr=LR[training.regime],
        minutes=minutes,
        steps=steps,
        seed=seed,
        token_ids=INTENSITIES,
        weights=equal(training.num_heads),  # as in the paper
        trunk=Trunk(heads_first=HEADS_FIRST),
        data=data.data_hash,
    )
