"""Train the pixel model that heads are put on: luminance, 8 x 8 to 32 x 32.

The learning rate warms up and falls as a cosine over the steps that the minutes are enough for.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.kit import trainings
from experiments.kit.trainings import LossOf, is_finished
from experiments.superres import pictures
from experiments.superres.pictures import Pictures
from experiments.superres.scales import Scale
from outpace.targets.pixel_model import PixelModel
from outpace.train.bases_pixel import lines
from outpace.train.loop import Loss
from outpace.train.precision import Precision, products_in

BASE = "base"
LR = 2e-3
WEIGHT_DECAY = 0.01


def train_base(patches: Path, folder: Path, scale: Scale, *, device: str = "cpu", seed: int = 0) -> None:
    """Train a model into a folder and note its bits on dev in run.json; done already: nothing."""
    data = pictures.read(patches, "train", scale.config)
    if is_finished(folder, by="dev_bits", data=data.data_hash, seed=seed):
        return

    def new() -> PixelModel:
        torch.manual_seed(seed)
        return PixelModel(scale.config).to(device)

    def finish(model: PixelModel, steps: int) -> dict[str, Any]:
        model.save(folder)
        dev = mean_bits(model, pictures.read(patches, "dev", scale.config))
        return {"dev_bits": round(dev, 4), "passes": round(steps * scale.batch / len(data.large), 2)}

    trainings.train_base(
        folder,
        new,
        lambda model, precision: bits_of(model, data, scale, seed, precision),
        finish,
        settings={
            "data": data.data_hash,
            "batch": scale.batch,
            "jitter": scale.jitter,
            **asdict(scale.config),
        },
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        minutes=scale.base_minutes,
        steps=scale.steps,
        seed=seed,
    )


def bits_of(model: PixelModel, data: Pictures, scale: Scale, seed: int, precision: Precision) -> LossOf:
    """The loss of a step: bits per intensity."""

    def loss(step: int, random: torch.Generator) -> Loss:
        some = data.batch(scale.batch, seed, step, scale.jitter)
        with products_in(precision, model.output.weight.device):
            return Loss(bits(model, some), some["labels"].numel())

    return loss


def bits(model: PixelModel, batch: dict[str, Tensor]) -> Tensor:
    """The mean cross-entropy of a batch's intensities, in bits."""
    device = model.output.weight.device
    small, labels = batch["small"].to(device), batch["labels"].to(device)
    read = batch.get("read", batch["labels"]).to(device)
    logits = model(lines(read), small).float()
    return cross_entropy(logits.flatten(0, 1), labels.flatten()) / math.log(2)


def mean_bits(model: PixelModel, data: Pictures, size: int = 32) -> float:
    """Bits per intensity of all pictures."""
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(data.large), size):
            some = data.picked(slice(first, first + size))
            total += float(bits(model, some)) * len(some["labels"])
    return total / len(data.large)
