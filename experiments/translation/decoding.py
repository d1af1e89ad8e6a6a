"""Translations out of the engine, of transformers and of CTranslate2: pieces in, pieces out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import outpace
from experiments.translation.ctranslate2 import LENGTHS
from experiments.translation.model import padded
from experiments.translation.pieces import EOS_ID, Pieces
from outpace.engine.request import Generation

BATCH = 32
Ids = list[int]


def accelerated(model: Any, **options: Any) -> Any:
    """What `outpace.accelerate` makes: on a CPU calls of few nodes are the block kernels'."""
    return outpace.accelerate(model, kernels="block" if model.device.type == "cpu" else "torch", **options)


def as_named(model: Any, **options: Any) -> Any:
    """The same, whose drafts are taken as they are named, also where several rows share a call.

    A draft that does not pay is given up otherwise, and what is counted would depend on the clock.
    """
    fast = accelerated(model, **options)
    drafter = fast.drafter()
    drafter.traits = replace(drafter.traits, paced="never")
    return fast


def in_batches(fast: Any, sources: Sequence[Ids], pad_id: int) -> list[Generation]:
    """By what `outpace.accelerate` has made, sources of like length side by side; in their own order."""
    order = sorted(range(len(sources)), key=lambda number: len(sources[number]))
    found: dict[int, Generation] = {}
    for first in range(0, len(order), BATCH):
        some = order[first : first + BATCH]
        ids = padded([sources[number] for number in some], pad_id).to(fast.model.device)
        found |= zip(some, fast.generations(ids, (ids != pad_id).long()), strict=True)
    return [found[number] for number in range(len(sources))]


def alone(fast: Any, source: Ids) -> Ids:
    """One sentence by the engine."""
    ids = torch.tensor([source], device=fast.model.device)
    return fast.generations(ids, torch.ones_like(ids))[0].token_ids


def by_transformers(model: Any, source: Ids) -> Ids:
    """One sentence by the model's own `generate`."""
    ids = torch.tensor([source], device=model.device)
    with torch.no_grad():
        tokens: Ids = model.generate(ids, attention_mask=torch.ones_like(ids))[0, 1:].tolist()
    return tokens


def by_ctranslate2(translator: Any, pieces: Pieces, source: Ids) -> Ids:
    """One sentence by CTranslate2, greedily."""
    (result,) = translator.translate_batch(pieces.tokens([source]), beam_size=1, **LENGTHS)
    return [*pieces.ids(result.hypotheses[0]), EOS_ID]
