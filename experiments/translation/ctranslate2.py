"""A trained model in CTranslate2: what writes greedy output fast, and the peer in speed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from experiments.translation.model import MAX_PIECES
from experiments.translation.pieces import EOS_ID, Pieces
from outpace.core.errors import OutpaceError
from outpace.train.distil import Output, Write

# As the model's generation_config has it.
LENGTHS = {"max_decoding_length": 2 * MAX_PIECES - 1, "min_decoding_length": 0}


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
    ours = torch.get_num_threads()
    made = _ctranslate2("ctranslate2").Translator(
        str(folder), device="cpu", inter_threads=batches, intra_threads=threads, compute_type="float32"
    )
    torch.set_num_threads(ours)  # both go by OpenMP's number, which the other has set to its own
    return made


def greedy(folder: Path, pieces: Pieces, *, threads: int = 1) -> Write:
    """Texts to greedy translations."""
    model = translator(folder, batches=threads)  # one thread for each keeps all of them busy

    def write(texts: Sequence[str]) -> list[Output]:
        sources = pieces.tokens(pieces.encode(texts))
        results = model.translate_batch(
            sources, beam_size=1, max_batch_size=2048, batch_type="tokens", **LENGTHS
        )
        found = [result.hypotheses[0] for result in results]
        ended = [len(one) < LENGTHS["max_decoding_length"] for one in found]
        ids = [[*pieces.ids(one), *([EOS_ID] if end else [])] for one, end in zip(found, ended, strict=True)]
        return [Output(*one) for one in zip(pieces.join(found), ids, ended, strict=True)]

    return write


def _ctranslate2(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise OutpaceError(
            "own output and the comparison of speed need CTranslate2: pip install 'outpace[experiments]'"
        ) from None
