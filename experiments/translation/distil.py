"""Sequence-level distillation: the training sources as the teacher translates them.

Kim & Rush 2016, arXiv:1606.07947. CTranslate2 decodes with 4 beams; an interrupted run goes on. The result is
`distilled.tsv` beside the teacher.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.kit.trainings import short_fingerprint
from experiments.translation import corpus
from experiments.translation.base import BASE, TEACHER
from experiments.translation.corpus import Segment
from experiments.translation.model import MAX_PIECES, load_model
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.scales import Scale
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar
from outpace.train.data import Pair
from outpace.train.distil import Write, distil
from outpace.train.origin import claim

BEAMS = 4
BATCH = 1024  # texts, which every thread has a part of at a time
# As the model's generation_config has it.
LENGTHS = {"max_decoding_length": 2 * MAX_PIECES - 1, "min_decoding_length": 0}


def distilled_segments(folder: Path, scale: Scale) -> Path:
    """Where they lie in the folder of a scale: beside the teacher that wrote them."""
    return folder / (TEACHER if scale.teacher_minutes else BASE) / "distilled.tsv"


def distil_corpus(corpus_folder: Path, folder: Path, scale: Scale, *, threads: int = 1) -> None:
    """Write the first training segments anew; done already: nothing."""
    path = distilled_segments(folder, scale)
    if path.exists():
        return
    pieces = Pieces(folder / MODEL)
    segments = corpus.read(corpus_folder / "train.tsv")[: scale.distil_segments]
    lengths = {
        one.source: len(ids)
        for one, ids in zip(segments, pieces.encode([s.source for s in segments]), strict=True)
    }
    # Texts of like length share a batch, and what is too long to train with is not decoded.
    segments = sorted(
        (one for one in segments if lengths[one.source] <= MAX_PIECES), key=lambda one: lengths[one.source]
    )
    teacher = short_fingerprint(load_model(path.parent))
    claim(path.with_suffix(".origin.json"), {"teacher": teacher}, begun=path.with_suffix(".jsonl").exists())
    write = beam_search(converted(path.parent), pieces, beams=BEAMS, threads=threads)
    with progress_bar() as progress:
        pairs = distil(
            [Pair(one.source, one.target) for one in segments],
            path.with_suffix(".jsonl"),
            write,
            batch=BATCH,
            progress=progress,
        )
    origins = {one.source: one.origin for one in segments}
    corpus.write(
        path,
        [
            Segment(str(pair.given), str(pair.wanted), origins[str(pair.given)])
            for pair in pairs
            if pair.ended
        ],
    )
    print(f"{path.name}: {len(pairs)} of {len(segments)} segments", flush=True)


def converted(folder: Path, *, quantization: str | None = None) -> Path:
    """A model's form for CTranslate2, beside it; made once."""
    converters = _ctranslate2("ctranslate2.converters")
    output = folder / f"ctranslate2-{quantization or 'float32'}"
    if not (output / "model.bin").exists():
        with warnings.catch_warnings():  # a tokenizer of transformers asks for a package that is not needed
            warnings.simplefilter("ignore")
            converter = converters.TransformersConverter(str(folder))
            converter.convert(str(output), quantization=quantization, force=True)
    return output


def translator(folder: Path, *, threads: int = 1, batches: int = 1) -> Any:
    """A model in CTranslate2's form, on the CPU: so many batches at a time, so many threads for each."""
    return _ctranslate2("ctranslate2").Translator(
        str(folder), device="cpu", inter_threads=batches, intra_threads=threads, compute_type="float32"
    )


def beam_search(folder: Path, pieces: Pieces, *, beams: int, threads: int = 1) -> Write:
    """Texts to translations by CTranslate2, one beam for greedy."""
    model = translator(folder, batches=threads)  # one thread for each keeps all of them busy

    def write(texts: Sequence[str]) -> list[tuple[str, bool]]:
        sources = pieces.tokens(pieces.encode(texts))
        results = model.translate_batch(
            sources, beam_size=beams, max_batch_size=2048, batch_type="tokens", **LENGTHS
        )
        found = [result.hypotheses[0] for result in results]
        ended = [len(one) < LENGTHS["max_decoding_length"] for one in found]
        return list(zip(pieces.join(found), ended, strict=True))

    return write


def _ctranslate2(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise OutpaceError(
            "distillation and its speed comparison need CTranslate2: pip install 'outpace[experiments]'"
        ) from None
