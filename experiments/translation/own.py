"""What a model says itself of the training sources: targets for its heads, which draft what it will say.

Greedy, as it will decode, and kept as its own pieces: of a text that is encoded again, some are others. This
stands where Stern et al. 2018, arXiv:1811.03115, have beams of a teacher of another seed (Kim & Rush 2016,
arXiv:1606.07947).
"""

from __future__ import annotations

from pathlib import Path

from experiments.kit.trainings import short_fingerprint
from experiments.translation import corpus
from experiments.translation.ctranslate2 import converted, greedy
from experiments.translation.model import MAX_PIECES, load_model
from experiments.translation.pieces import MODEL, VOCABULARY, Pieces
from outpace.progress import progress_bar
from outpace.train.data import Pair
from outpace.train.distil import distil
from outpace.train.origin import claim

FILE = "own.jsonl"
BATCH = 1024  # texts, which every thread has a part of at a time


def own_output(corpus_folder: Path, folder: Path, where: Path, *, count: int, threads: int = 1) -> list[Pair]:
    """Training sources with what the model in a folder says, which is kept there.

    folder  of the scale. count: the first so many sources. An interrupted run goes on; what is there already
    is read. Outputs that were cut off are left out.
    """
    pieces = Pieces(folder / MODEL)
    texts = [one.source for one in corpus.read(corpus_folder / "train.tsv")][:count]
    lengths = dict(zip(texts, map(len, pieces.encode(texts)), strict=True))
    # Texts of like length share a batch, and what is too long to train with is not decoded.
    texts = sorted((text for text in texts if lengths[text] <= MAX_PIECES), key=lengths.__getitem__)
    path = where / FILE
    claim(
        path.with_suffix(".origin.json"),
        {"model": short_fingerprint(load_model(where))},
        begun=path.exists(),
    )
    if not (where / VOCABULARY).exists():
        pieces.save(where)  # for the conversion
    with progress_bar() as progress:
        pairs = distil(
            [Pair(text, "") for text in texts],
            path,
            greedy(converted(where), pieces, threads=threads),
            own=True,
            batch=BATCH,
            progress=progress,
        )
    return [pair for pair in pairs if pair.ended]
