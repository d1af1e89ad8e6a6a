"""Train the translation model that heads are put on.

The transformer of Vaswani et al. 2017, arXiv:1706.03762, with tied embeddings and label smoothing; the
learning rate warms up and falls as a cosine within the minutes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import sacrebleu

from experiments.kit import trainings
from experiments.kit.trainings import is_finished
from experiments.translation import corpus
from experiments.translation.model import Examples, load_model, new_model, translate
from experiments.translation.pieces import MODEL, Pieces, train_pieces
from experiments.translation.scales import Scale
from outpace.train.looped import Early, looped_loss

BASE = "base"
LABEL_SMOOTHING = 0.1


def train_base(
    corpus_folder: Path, folder: Path, scale: Scale, *, seed: int = 0, device: str = "cpu"
) -> None:
    """Train it into folder/base and note BLEU on the dev set in its run.json; done already: nothing."""
    where, path = folder / BASE, corpus_folder / "train.tsv"
    data = corpus.fingerprint(path) if path.exists() else "none"
    if is_finished(where, by="dev_bleu", data=data, seed=seed):
        return
    pieces = open_pieces(corpus_folder, folder / MODEL, scale.num_pieces)
    examples = Examples.of(corpus.read(path), pieces)
    batches = examples.batches(scale.tokens, seed)

    def new() -> Any:
        return new_model(pieces, scale.size, seed).to(device)

    def finish(model: Any, steps: int) -> dict[str, Any]:
        model.save_pretrained(where)
        pieces.save(where)
        dev = corpus.read(corpus_folder / "dev.tsv")
        outputs = translate(load_model(where, device), pieces, [one.source for one in dev])
        bleu = sacrebleu.corpus_bleu(outputs, [[one.target for one in dev]])
        passes = steps * scale.tokens / sum(map(len, examples.targets))
        return {"dev_bleu": round(bleu.score, 2), "passes": round(passes, 2)}

    trainings.train_base(
        where,
        new,
        lambda model, precision: looped_loss(
            model, batches, Early(), precision=precision, smoothing=LABEL_SMOOTHING
        ),
        finish,
        settings={
            "data": data,
            "tokens": scale.tokens,
            "device": device,
            "size": asdict(scale.size),
            "num_pieces": pieces.num_ids,
        },
        lr=scale.lr,
        minutes=0,
        steps=scale.base_steps,
        seed=seed,
    )


def open_pieces(corpus_folder: Path, path: Path, num_pieces: int) -> Pieces:
    """The vocabulary at `path`, made from the training segments where there is none."""
    if path.exists():
        return Pieces(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    segments = corpus.read(corpus_folder / "train.tsv")
    texts = [text for one in segments for text in (one.source, one.target)]
    return train_pieces(texts, path, num_pieces=num_pieces)
