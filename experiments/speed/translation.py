"""Training of the translation models, and how they translate: in torch, every way on the same sentences."""

from __future__ import annotations

import re
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
from experiments.kit.trainings import LossOf, is_finished, short_fingerprint
from experiments.speed.decoding import Way, Written, agreement, ways_of
from experiments.speed.models import BASE, SHARED, SPEED, Kind, Stage, drawn, kinds, loss_with
from experiments.speed.scales import Scale, Translation
from experiments.translation import corpus
from experiments.translation.base import LABEL_SMOOTHING, open_pieces
from experiments.translation.decoding import accelerated
from experiments.translation.model import Examples, keep_start_at_zero, new_model, short_enough, translate
from experiments.translation.pieces import MODEL, Pieces
from outpace.train.looped import Early
from outpace.train.precision import Precision

LABEL = "translation"
_LAYER = re.compile(r"(\bdecoder\.layers\.)(\d+)")
Ids = Sequence[int]


def train_translation(corpus_folder: Path, folder: Path, scale: Scale, *, seed: int = 0) -> None:
    """Every translation model of a scale into folder/translation-KIND; done already: nothing.

    All go on from folder/translation-base, whose G decoder layers run once: most of the time is spent once.
    """
    size = scale.translation
    pieces = open_pieces(corpus_folder, folder / MODEL, size.num_pieces)
    base, once = folder / f"{LABEL}-{BASE}", Kind(size.size.decoder_layers, 1, {})
    begin = partial(new_model, pieces, size.size, seed, loops=1)
    first = Stage(begin, lambda step: 1, once.loss, size.steps, size.lr, {})
    _train(corpus_folder, pieces, base, scale, once, first, seed)
    for name, kind in kinds(once.layers, size.loops, size.early).items():
        where, before = folder / f"{LABEL}-{name}", _before(folder, name)
        stage = from_before(before, pieces, size, kind, seed + 1)
        _train(corpus_folder, pieces, where, scale, kind, stage, seed + 1)


def _before(folder: Path, name: str) -> Path:
    """What a kind goes on from: the base; for SPEED the model whose loops have learnt to be run."""
    return folder / f"{LABEL}-{SHARED if name == SPEED else BASE}"


def from_before(before: Path, pieces: Pieces, size: Translation, kind: Kind, seed: int) -> Stage:
    """What makes the model in a folder one of another kind."""
    loops = partial(drawn, loops=kind.loops, seed=seed) if kind.loops > 1 else lambda step: 1
    early = Early(kind.early, "mutual")
    steps, lr = (size.tuning.steps, size.tuning.lr) if kind.early else (size.more, size.lr / 2)
    settings = {"early": kind.named, "towards": early.towards}
    return Stage(partial(gone_on, before, pieces, size, kind), loops, early, steps, lr, settings)


def gone_on(before: Path, pieces: Pieces, size: Translation, kind: Kind) -> Any:
    """The model in a folder as one of another kind: its G layers run R times, or are copied R times.

    Gong et al. 2019, "Efficient Training of BERT by Progressively Stacking", begin a deep model so.
    """
    found: Any = AutoModelForSeq2SeqLM.from_pretrained(before, dtype=torch.float32)
    weights = found.state_dict()

    def source(name: str) -> str:
        return _LAYER.sub(lambda one: f"{one[1]}{int(one[2]) % size.size.decoder_layers}", name)

    model = new_model(pieces, size.of(kind.layers), 0, loops=kind.loops)
    model.load_state_dict({name: weights[source(name)] for name in model.state_dict()})
    return model


def _train(
    corpus_folder: Path, pieces: Pieces, where: Path, scale: Scale, kind: Kind, stage: Stage, seed: int
) -> None:
    size, data = scale.translation, corpus.fingerprint(corpus_folder / "train.tsv")
    if is_finished(where, by="bleu", data=data, seed=seed):
        return
    batches = Examples.of(corpus.read(corpus_folder / "train.tsv"), pieces).batches(size.tokens, seed)

    def loss_of(model: Any, precision: Precision) -> LossOf:
        smoothing = LABEL_SMOOTHING
        return loss_with(model, batches, stage.loops, stage.early, precision=precision, smoothing=smoothing)

    def finish(model: Any, steps: int) -> dict[str, Any]:
        model.config.num_loops = kind.loops
        model.save_pretrained(where)
        test = short_enough(corpus.read(corpus_folder / "test.tsv"), pieces)[: scale.sentences]
        outputs = translate(model, pieces, [one.source for one in test])
        bleu = sacrebleu.corpus_bleu(outputs, [[one.target for one in test]])
        return {"tokens_seen": steps * size.tokens, "bleu": round(bleu.score, 2)}

    trainings.train_base(
        where,
        stage.new,
        loss_of,
        finish,
        settings={
            "data": data,
            "size": asdict(size.of(kind.layers)),
            "loops": kind.loops,
            "batch": size.tokens,
            "pieces": pieces.num_ids,
            "start": short_fingerprint(stage.new()),
            **stage.settings,
        },
        lr=stage.lr,
        minutes=0,
        steps=stage.steps,
        seed=seed,
    )


class Translator:
    """A translation model."""

    family = LABEL
    temperatures = (0.0,)

    def __init__(self, folder: Path, *, every: bool) -> None:
        self.name = folder.name
        before = [BASE, SHARED] if folder.name.endswith(SPEED) else [BASE]
        self.stages = [*(folder.with_name(f"{LABEL}-{name}") for name in before), folder]
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
