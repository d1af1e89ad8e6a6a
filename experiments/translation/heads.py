"""The trainings of the table: on gold targets, on the base's own output, and on what it says once finetuned.

One training for the largest k serves every smaller one. Finetuning begins with the heads of the frozen base;
on own output every second batch is gold, for the model alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.kit import heads
from experiments.kit.heads import Training
from experiments.kit.trainings import short_fingerprint
from experiments.translation import corpus
from experiments.translation.base import BASE
from experiments.translation.model import Batches, Examples, load_model
from experiments.translation.own import own_output
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.scales import Scale
from outpace.train.bases import Seq2SeqBase
from outpace.train.blockwise import Regime, Trunk

LR_PART: dict[Regime, float] = {"frozen": 2.0, "finetuned": 0.7}
"""Of the base's learning rate."""
TRUNK_RATE = 0.5
"""Of the heads' rate, for the model that is finetuned with them."""
TOKENS_PART = 1 / 2
"""Of the base's batch: in the same time, many small steps taught heads more than few large ones."""
GOLD, OWN, RENEWED = "gold", "own", "renewed"
"""Targets: those of the corpus, what the base says itself, what it says after finetuning on that."""
DATA = (GOLD, OWN, RENEWED)


def trainings(scale: Scale) -> list[Training]:
    """All of a scale, each after the one that it begins with."""
    most = max(scale.num_heads)
    frozen = {data: Training("frozen", data, most, BASE) for data in (GOLD, OWN)}
    tuned = {data: Training("finetuned", data, most, BASE, before) for data, before in frozen.items()}
    return [*frozen.values(), *tuned.values(), Training("finetuned", RENEWED, most, BASE, tuned[OWN])]


def examples_of(
    training: Training, corpus_folder: Path, folder: Path, scale: Scale, *, threads: int = 1
) -> Examples:
    """What a training learns from; own output is written where it is missing."""
    pieces = Pieces(folder / MODEL)
    if training.data == GOLD:
        return Examples.of(corpus.read(corpus_folder / "train.tsv"), pieces)
    speaker = training.begin(folder) if training.data == RENEWED else folder / BASE
    pairs = own_output(corpus_folder, folder, speaker, count=scale.own_segments, threads=threads)
    return Examples.said(pairs, pieces)


def train_heads(
    corpus_folder: Path, folder: Path, scale: Scale, *, device: str = "cpu", seed: int = 0, threads: int = 1
) -> None:
    """Every training of a scale into folder/heads, the base being in the folder."""
    known: dict[str, tuple[Batches, str]] = {}

    def batches_of(training: Training) -> tuple[Batches, str]:
        if training.data not in known:
            examples = examples_of(training, corpus_folder, folder, scale, threads=threads)
            tokens = round(TOKENS_PART * scale.tokens)
            known[training.data] = examples.batches(tokens, seed), examples.fingerprint()
        return known[training.data]

    def open_base(path: Path) -> Seq2SeqBase:
        model: Any = load_model(path, device)
        return Seq2SeqBase(model, name=f"marian {short_fingerprint(model)}")

    gold: Callable[[int], dict[str, Tensor]]
    for training in trainings(scale):
        if heads.is_trained(training, folder, open_base, seed=seed):
            continue
        batches, data = batches_of(training)
        gold = batches_of(trainings(scale)[0])[0]
        finetunes = training.regime == "finetuned"
        heads.train_heads(
            training,
            folder,
            open_base,
            batches,
            lr=LR_PART[training.regime] * scale.lr,
            minutes=0,
            steps=scale.finetuned_steps if finetunes else scale.frozen_steps,
            seed=seed,
            data=data,
            trunk=Trunk(rate=TRUNK_RATE, gold=gold if finetunes and training.data != GOLD else None),
        )
