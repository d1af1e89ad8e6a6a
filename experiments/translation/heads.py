"""The trainings of the table, on gold targets and on distilled ones, for which there is a base of its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.kit import heads
from experiments.kit.heads import Training, trainings_of
from experiments.kit.trainings import short_fingerprint
from experiments.translation import corpus
from experiments.translation.base import BASE, DISTILLED
from experiments.translation.distil import distilled_segments
from experiments.translation.model import Batches, Examples, load_model
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.scales import Scale
from outpace.train.bases import Seq2SeqBase
from outpace.train.blockwise import Regime

LR_PART: dict[Regime, float] = {"frozen": 2.0, "finetuned": 0.7}
"""Of the base's learning rate."""
TOKENS_PART = 1 / 2
"""Of the base's batch: in the same time, many small steps taught heads more than few large ones."""
BASES = {"gold": BASE, "distilled": DISTILLED}


def trainings(scale: Scale) -> list[Training]:
    """All of a scale."""
    most = max(scale.num_heads)
    return [
        training
        for data, base in BASES.items()
        for training in trainings_of(data, base, frozen=most, finetuned=scale.num_heads)
    ]


def segments_of(data: str, corpus_folder: Path, folder: Path, scale: Scale) -> Path:
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

    def open_base(path: Path) -> Seq2SeqBase:
        model: Any = load_model(path, device)
        return Seq2SeqBase(model, name=f"marian {short_fingerprint(model)}")

    for training in trainings(scale):
        path = segments_of(training.data, corpus_folder, folder, scale)

        def batch(step: int, path: Path = path) -> dict[str, Tensor]:
            return batches(path)(step)

        heads.train_heads(
            training,
            folder,
            open_base,
            batch,
            lr=LR_PART[training.regime] * scale.lr,
            minutes=scale.frozen_minutes if training.regime == "frozen" else scale.finetuned_minutes,
            steps=scale.steps,
            seed=seed,
            data=corpus.fingerprint(path),
        )
