"""Training of the translation models, and how they translate: in torch, every way on the same sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSeq2SeqLM

from experiments.kit import trainings
from experiments.kit.trainings import is_finished
from experiments.speed.decoding import Way, Written, agreement, ways_of
from experiments.speed.models import Kind, kinds, loops_in, loss_with
from experiments.speed.scales import Scale
from experiments.translation import corpus
from experiments.translation.base import LABEL_SMOOTHING, open_pieces
from experiments.translation.decoding import accelerated
from experiments.translation.model import Examples, keep_start_at_zero, new_model, short_enough, translate
from experiments.translation.pieces import MODEL, Pieces
from outpace.train.looped import Early

LABEL = "translation"
Ids = Sequence[int]


def train_translation(corpus_folder: Path, folder: Path, scale: Scale, *, seed: int = 0) -> None:
    """Every translation model of a scale into folder/translation-KIND; done already: nothing."""
    size = scale.translation
    for name, kind in kinds(size.size.decoder_layers, size.loops, size.early).items():
        _train(corpus_folder, folder / f"{LABEL}-{name}", scale, kind, seed)


def _train(corpus_folder: Path, where: Path, scale: Scale, kind: Kind, seed: int) -> None:
    size, data = scale.translation, corpus.fingerprint(corpus_folder / "train.tsv")
    if is_finished(where, by="bleu", data=data, seed=seed):
        return
    once = size.once if kind.loops > 1 else 0
    pieces = open_pieces(corpus_folder, where.parent / MODEL, size.num_pieces)
    batches = Examples.of(corpus.read(corpus_folder / "train.tsv"), pieces).batches(size.tokens, seed)

    def finish(model: Any, steps: int) -> dict[str, Any]:
        model.config.num_loops = kind.loops
        model.save_pretrained(where)
        test = short_enough(corpus.read(corpus_folder / "test.tsv"), pieces)[: scale.sentences]
        outputs = translate(model, pieces, [one.source for one in test])
        bleu = sacrebleu.corpus_bleu(outputs, [[one.target for one in test]])
        return {"tokens_seen": steps * size.tokens, "bleu": round(bleu.score, 2)}

    trainings.train_base(
        where,
        lambda: new_model(pieces, size.of(kind.layers), seed, loops=kind.loops),
        lambda model, precision: loss_with(
            model,
            batches,
            partial(loops_in, loops=kind.loops, once=once, seed=seed),
            Early(kind.early, "mutual"),
            precision=precision,
            smoothing=LABEL_SMOOTHING,
        ),
        finish,
        settings={
            "data": data,
            "size": asdict(size.of(kind.layers)),
            "loops": kind.loops,
            "early": kind.named,
            "towards": "mutual",
            "once": once,
            "batch": size.tokens,
            "pieces": pieces.num_ids,
        },
        lr=size.lr,
        minutes=0,
        steps=size.steps,
        seed=seed,
    )


class Translator:
    """A translation model."""

    family = LABEL
    temperatures = (0.0,)

    def __init__(self, folder: Path, *, every: bool) -> None:
        self.name, self.stages = folder.name, [folder]
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
        self.torch = keep_start_at_zero(model).eval()
        self.loops: int = model.config.num_loops
        self._ways = ways_of(self.loops, every=every)
        self._fast = {way: accelerated(self.torch, draft=way) for way in self._ways}

    def ways(self, temperature: float) -> list[Way]:
        """All are greedy."""
        return self._ways

    def write(self, given: Ids, way: Way, temperature: float) -> Written:
        """One translation, greedy."""
        ids = torch.tensor([[*given]])
        (made,) = self._fast[way].generations(ids, torch.ones_like(ids))
        return Written.of(made, self.loops)

    def agreement(self, given: Ids, tokens: Ids) -> NDArray[np.bool_]:
        """bool[R - 1, T] in a translation."""
        ids = torch.tensor([[*given]])
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        return agreement(self.torch, batch, torch.tensor([[*tokens]]))

    def quality(self, run: dict[str, Any]) -> float:
        """BLEU."""
        bleu: float = run["bleu"]
        return bleu


def translators(folder: Path, scale: Scale) -> list[Translator]:
    """All translation models of a scale."""
    size = scale.translation
    names = kinds(size.size.decoder_layers, size.loops, size.early)
    return [Translator(folder / f"{LABEL}-{name}", every=name == "speed") for name in names]


def sources(corpus_folder: Path, folder: Path, count: int) -> list[list[int]]:
    """The first sentences of the test set."""
    pieces = Pieces(folder / MODEL)
    test = short_enough(corpus.read(corpus_folder / "test.tsv"), pieces)[:count]
    return pieces.encode([one.source for one in test])
