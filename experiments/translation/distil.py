"""Sequence-level distillation: the training sources as the teacher translates them.

    python -m experiments.translation.distil --work FOLDER

Kim & Rush 2016, arXiv:1606.07947. CTranslate2 decodes with 4 beams; an interrupted run goes on. The result is
`distilled.tsv`.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.translation import corpus
from experiments.translation.corpus import Segment
from experiments.translation.model import MAX_PIECES
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.prepare import WORK
from outpace.cli.render import progress_bar
from outpace.core.errors import OutpaceError
from outpace.train.data import Pair
from outpace.train.distil import distil

BEAMS = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--teacher", default="teacher", help="the folder in --work that `base` trained")
    parser.add_argument("--limit", type=int, help="only the first segments")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    try:
        distil_corpus(args.work, args.teacher, limit=args.limit, threads=args.threads)
    except (OutpaceError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def distil_corpus(work: Path, teacher: str, *, limit: int | None = None, threads: int = 1) -> None:
    """Write work/distilled.tsv."""
    pieces = Pieces(work / MODEL)
    segments = corpus.read(work / "train.tsv")[:limit]
    lengths = {
        one.source: len(ids)
        for one, ids in zip(segments, pieces.encode([s.source for s in segments]), strict=True)
    }
    # Texts of like length share a batch, and what is too long to train with is not decoded.
    segments = sorted(
        (one for one in segments if lengths[one.source] <= MAX_PIECES), key=lambda one: lengths[one.source]
    )
    write = beam_search(converted(work / teacher), pieces, beams=BEAMS, threads=threads)
    with progress_bar() as progress:
        pairs = distil(
            [Pair(one.source, one.target) for one in segments],
            work / "distilled.jsonl",
            write,
            progress=progress,
        )
    origins = {one.source: one.origin for one in segments}
    corpus.write(
        work / "distilled.tsv",
        [Segment(str(pair.given), str(pair.wanted), origins[str(pair.given)]) for pair in pairs],
    )
    print(f"distilled.tsv: {len(pairs)} of {len(segments)} segments")


def converted(folder: Path, *, quantization: str | None = None) -> Path:
    """A model's form for CTranslate2, beside it; made once."""
    from ctranslate2.converters import TransformersConverter

    output = folder / f"ctranslate2-{quantization or 'float32'}"
    if not (output / "model.bin").exists():
        with warnings.catch_warnings():  # a tokenizer of transformers asks for a package that is not needed
            warnings.simplefilter("ignore")
            TransformersConverter(str(folder)).convert(str(output), quantization=quantization, force=True)
    return output


def beam_search(
    folder: Path, pieces: Pieces, *, beams: int, threads: int = 1
) -> Callable[[Sequence[str]], list[str]]:
    """Texts to translations by CTranslate2, one beam for greedy."""
    import ctranslate2

    translator: Any = ctranslate2.Translator(
        str(folder), device="cpu", inter_threads=1, intra_threads=threads, compute_type="float32"
    )

    def write(texts: Sequence[str]) -> list[str]:
        sources = pieces.tokens(pieces.encode(texts))
        results = translator.translate_batch(
            sources,
            beam_size=beams,
            max_batch_size=2048,
            batch_type="tokens",
            max_decoding_length=2 * MAX_PIECES - 1,  # as the model's generation_config has it
            min_decoding_length=0,
        )
        return pieces.join([result.hypotheses[0] for result in results])

    return write


if __name__ == "__main__":
    main()
