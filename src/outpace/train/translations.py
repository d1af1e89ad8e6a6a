"""What frozen heads of an encoder-decoder model learn from: its states over what it says of sources itself.

The target that will use the heads computes them, many texts in a call. Texts are in the order of their
lengths, whatever order they come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from outpace.core.call import Call
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.progress import Progress
from outpace.train.features import FeatureFile
from outpace.train.recording import FINAL, kept_states

if TYPE_CHECKING:
    from outpace.targets.hf_seq2seq import HfSeq2SeqTarget

BATCH = 32  # texts of a call


def add_translations(
    file: FeatureFile,
    target: HfSeq2SeqTarget,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    start: int,
    taps: Sequence[str] = (FINAL,),
    progress: Progress | None = None,
) -> None:
    """The states of all (source, output) pairs at these taps, one behind the other, into a file.

    start  the token that the decoder begins with. Texts that the file has already are not computed again.

    Raises an OutpaceError for a file of other texts.
    """
    ordered = sorted(pairs, key=lambda pair: (len(pair[1]), len(pair[0])))
    done = [token for _, output in ordered[: file.num_texts] for token in output]
    if file.num_texts > len(ordered) or file.tokens().tolist() != done:
        raise OutpaceError(f"{file.folder} holds states of other data, accepted are the same or a new folder")
    target.tap(*taps)
    for first in range(file.num_texts, len(ordered), BATCH):
        some = ordered[first : first + BATCH]
        states = _states(target, some, start, taps)
        file.add(list(zip(states, (output for _, output in some), strict=True)))
        if progress is not None:
            progress(first + len(some), len(ordered), f"hidden states of {first + len(some)} texts")


def _states(
    target: HfSeq2SeqTarget,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    start: int,
    taps: Sequence[str],
) -> list[np.ndarray]:
    """For each pair f16[n, T * D]: what each of its n output tokens was chosen from."""
    width = max(len(source) for source, _ in pairs)
    ids = torch.tensor([[*source, *[0] * (width - len(source))] for source, _ in pairs])
    mask = torch.tensor([[1] * len(source) + [0] * (width - len(source)) for source, _ in pairs])
    device = target.model.device
    rows = [target.open(one) for one in target.encode(ids.to(device), mask.to(device))]
    try:
        calls = [
            Call.on(row, TokenTree.chain(start, output[:-1]))
            for row, (_, output) in zip(rows, pairs, strict=True)
        ]
        states = kept_states(taps, target.score(calls).hidden)
    finally:
        target.free(rows)
    return np.split(states, np.cumsum([len(output) for _, output in pairs])[:-1])
