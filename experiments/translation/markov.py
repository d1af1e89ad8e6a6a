"""Markov heads for translation: what drafts a whole block of which each piece knows those before it.

`drafters/heads/markov_heads.py`, on the frozen base and on the model that was finetuned last, from their own
output. Whatever they draft, the exact rule gives the model's own translation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from experiments.kit.heads import Training
from experiments.kit.trainings import is_finished, short_fingerprint
from experiments.translation.base import BASE
from experiments.translation.heads import OWN, RENEWED, trainings
from experiments.translation.model import load_model
from experiments.translation.own import own_output
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.scales import Scale
from outpace.heads.markov_heads import METHOD
from outpace.progress import progress_bar
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
from outpace.train.data import frequent_tokens
from outpace.train.examples import FEATURES
from outpace.train.features import FeatureFile
from outpace.train.loop import Plan
from outpace.train.markov_heads import train_markov
from outpace.train.recording import FINAL
from outpace.train.translations import add_translations

TAPS = ("0", FINAL)
LR = 2e-3
SEGMENTS = 8  # of 64 pieces


def markov_trainings(scale: Scale) -> list[Training]:
    """Of blocks of k - 1 pieces, for the largest k."""
    most = max(scale.num_heads)
    (last,) = (one for one in trainings(scale) if one.data == RENEWED)
    return [
        Training("frozen", OWN, most, BASE, method=METHOD),
        Training("frozen", RENEWED, most, BASE, last, method=METHOD),
    ]


def train_markov_heads(
    corpus_folder: Path, folder: Path, scale: Scale, *, seed: int = 0, threads: int = 1
) -> None:
    """Both into folder/heads, the models being there; done already: nothing."""
    for training in markov_trainings(scale):
        where, model = training.heads(folder), load_model(training.model(folder))
        name = f"marian {short_fingerprint(model)}"
        if not is_finished(where, seed=seed, model=name):
            _train(training, where, model, name, corpus_folder, folder, scale, seed, threads)


def _train(
    training: Training, where: Path, model: Any, name: str, corpus_folder: Path, folder: Path, scale: Scale,
    seed: int, threads: int,
) -> None:  # fmt: skip
    count = scale.markov_segments
    # The base's output is there already; of the other model as much is written as is read.
    written = scale.own_segments if training.before is None else count
    pairs = own_output(corpus_folder, folder, training.model(folder), count=written, threads=threads)
    pairs = pairs[:: max(1, len(pairs) // count)]
    sources = Pieces(folder / MODEL).encode([str(pair.given) for pair in pairs])
    target = HfSeq2SeqTarget(model)
    file = FeatureFile(where / FEATURES, len(TAPS) * target.hidden_size)
    said = [(source, pair.token_ids or []) for source, pair in zip(sources, pairs, strict=True)]
    print(f"{where.name}: {scale.markov_steps} steps", flush=True)
    with progress_bar() as progress:
        add_translations(
            file, target, said, start=model.config.decoder_start_token_id, taps=TAPS, progress=progress
        )
        features = file.read()
        train_markov(
            target,
            features,
            where,
            taps=TAPS,
            token_ids=frequent_tokens([features.tokens.tolist()], target.vocab_size),
            length=training.num_heads - 1,
            width=2 * target.hidden_size,
            rank=64,
            segments=SEGMENTS,
            plan=Plan(scale.markov_steps, LR, seed=seed),
            name=name,
            data=f"own output of {name}",
            progress=progress,
        )
