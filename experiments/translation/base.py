"""Train the translation model that heads are put on, and with another seed the teacher that distils.

The transformer of Vaswani et al. 2017, arXiv:1706.03762, with tied embeddings and label smoothing; the
learning rate warms up and falls as a cosine within the minutes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import sacrebleu

from experiments.kit import trainings
from experiments.kit.trainings import is_finished, short_fingerprint
from experiments.translation import corpus
from experiments.translation.model import Examples, load_model, new_model, translate
from experiments.translation.pieces import MODEL, Pieces, train_pieces
from experiments.translation.scales import Scale
from outpace.train.looped import Early, looped_loss

BASE, TEACHER, DISTILLED = "base", "teacher", "base-distilled"
LABEL_SMOOTHING = 0.1


def train_bases(
    corpus_folder: Path, folder: Path, scale: Scale, *, seed: int = 0, device: str = "cpu"
) -> None:
    """The base and, where there is one, the teacher, into the folder of a scale."""
    train_base(corpus_folder, folder, scale, BASE, minutes=scale.base_minutes, seed=seed, device=device)
    if scale.teacher_minutes:
        train_base(
            corpus_folder, folder, scale, TEACHER, minutes=scale.teacher_minutes, seed=seed + 1, device=device
        )


def train_base(
    corpus_folder: Path,
    folder: Path,
    scale: Scale,
    name: str,
    *,
    minutes: float,
    distilled: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train a model into folder/name and note BLEU on the dev set in its run.json; done already: nothing.

    distilled  segments to train on in place of train.tsv. The base is gone on with then, at half the rate: a
               second one from nothing would take the time of the first to be as good.
    """
    where, path = folder / name, distilled or corpus_folder / "train.tsv"
    data = corpus.fingerprint(path) if path.exists() else "none"
    if is_finished(where, by="dev_bleu", data=data, seed=seed):
        return
    pieces = open_pieces(corpus_folder, folder / MODEL, scale.num_pieces)
    examples = Examples.of(corpus.read(path), pieces)
    batches = examples.batches(scale.tokens, seed)

    def new() -> Any:
        return (load_model(folder / BASE) if distilled else new_model(pieces, scale.size, seed)).to(device)

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
            "start": short_fingerprint(new()) if distilled else None,
        },
        lr=scale.lr if distilled is None else scale.lr / 2,
        minutes=minutes,
        steps=scale.base_steps if distilled is None else scale.steps,
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
