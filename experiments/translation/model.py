"""The translation model, a small Marian of transformers, and examples to train it with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from experiments.translation.corpus import Segment
from experiments.translation.pieces import EOS_ID, Pieces
from outpace.core.errors import OutpaceError
from outpace.targets.hf_looped_marian import LoopedMarianConfig, LoopedMarianMTModel
from outpace.train.data import Pair, by_length

MAX_PIECES = 128  # of a text to train with; longer ones are left out
NEVER = -100.0  # logit of <pad>, which is in the vocabulary for its place in Marian alone

Batches = Callable[[int], dict[str, Tensor]]


@dataclass(frozen=True, slots=True)
class Size:
    """Of a model."""

    width: int = 256
    encoder_layers: int = 4
    decoder_layers: int = 3
    heads: int = 4
    hidden: int = 1024
    dropout: float = 0.1


def new_model(pieces: Pieces, size: Size, seed: int, *, loops: int | None = None) -> Any:
    """A model with random weights. One embedding serves source, target and output.

    loops  how often the decoder's layers run; None: once, and the model is an ordinary one.
    """
    options: dict[str, Any] = dict(
        vocab_size=pieces.num_ids,
        decoder_vocab_size=pieces.num_ids,
        d_model=size.width,
        encoder_layers=size.encoder_layers,
        decoder_layers=size.decoder_layers,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        encoder_ffn_dim=size.hidden,
        decoder_ffn_dim=size.hidden,
        max_position_embeddings=2 * MAX_PIECES,
        activation_function="relu",
        dropout=size.dropout,
        attention_dropout=0.0,
        activation_dropout=0.0,
        init_std=size.width**-0.5,
        scale_embedding=True,
        pad_token_id=pieces.pad_id,
        eos_token_id=EOS_ID,
        decoder_start_token_id=pieces.pad_id,
        forced_eos_token_id=None,
    )
    torch.manual_seed(seed)
    model: Any
    if loops is None:
        model = transformers.MarianMTModel(transformers.MarianConfig(**options))
    else:
        model = LoopedMarianMTModel(LoopedMarianConfig(num_loops=loops, **options))
    with torch.no_grad():
        model.get_input_embeddings().weight[pieces.pad_id] = 0.0
        model.final_logits_bias[0, pieces.pad_id] = NEVER
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=pieces.pad_id,
        eos_token_id=EOS_ID,
        decoder_start_token_id=pieces.pad_id,
        max_length=2 * MAX_PIECES,
        num_beams=1,
        do_sample=False,
    )
    return keep_start_at_zero(model)


def load_model(folder: Path, device: str = "cpu") -> Any:
    """A model that `save_pretrained` wrote, in f32, for evaluation or more training."""
    if not (folder / "config.json").exists():
        raise OutpaceError(f"{folder} has no model; `base` makes it")
    model: Any = transformers.MarianMTModel.from_pretrained(folder, dtype=torch.float32)
    return keep_start_at_zero(model.to(device)).eval()


def keep_start_at_zero(model: Any) -> Any:
    """Keep training from the embedding of <pad>: outputs begin with zeros, as in Marian and CTranslate2."""
    pad_id = model.config.pad_token_id
    index = torch.tensor([pad_id], device=model.device)
    model.get_input_embeddings().weight.register_hook(lambda grad: grad.index_fill(0, index, 0.0))
    return model


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs as ids. `batches` is what `outpace.train` reads: a step's batch, a function of the step alone."""

    sources: list[list[int]]
    targets: list[list[int]]
    pad_id: int

    @staticmethod
    def of(segments: Sequence[Segment], pieces: Pieces) -> Examples:
        """Of the segments that are not too long, sorted by the length of their source."""
        return Examples._sorted(
            pieces.encode([one.source for one in segments]),
            pieces.encode([one.target for one in segments]),
            pieces.pad_id,
        )

    @staticmethod
    def said(pairs: Sequence[Pair], pieces: Pieces) -> Examples:
        """Of what a model has said itself, in its own pieces."""
        return Examples._sorted(
            pieces.encode([str(pair.given) for pair in pairs]),
            [pair.token_ids or [] for pair in pairs],
            pieces.pad_id,
        )

    @staticmethod
    def _sorted(sources: list[list[int]], targets: list[list[int]], pad_id: int) -> Examples:
        kept = [pair for pair in zip(sources, targets, strict=True) if max(map(len, pair)) <= MAX_PIECES]
        # Batches hold targets of one length; in this order their sources are of like length too.
        kept.sort(key=lambda pair: len(pair[0]))
        if not kept:
            raise OutpaceError(f"no segment has {MAX_PIECES} pieces or fewer")
        return Examples([source for source, _ in kept], [target for _, target in kept], pad_id)

    def fingerprint(self) -> str:
        """Of all ids, for run records."""
        digest = hashlib.sha256(json.dumps([self.sources, self.targets]).encode())
        return digest.hexdigest()

    def batches(self, tokens: int, seed: int) -> Batches:
        """Batches of about so many target tokens."""
        pick = by_length([len(target) for target in self.targets], tokens, seed)

        def batch(step: int) -> dict[str, Tensor]:
            some = pick(step)
            ids = padded([self.sources[number] for number in some], self.pad_id)
            labels = padded([self.targets[number] for number in some], -100)
            return {"input_ids": ids, "attention_mask": (ids != self.pad_id).long(), "labels": labels}

        return batch


def short_enough(segments: Sequence[Segment], pieces: Pieces) -> list[Segment]:
    """Those that could have been trained with; the model has no positions for the longest."""
    sources, targets = ([one.source for one in segments], [one.target for one in segments])
    lengths = zip(map(len, pieces.encode(sources)), map(len, pieces.encode(targets)), strict=True)
    return [one for one, pair in zip(segments, lengths, strict=True) if max(pair) <= MAX_PIECES]


def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """i64[B, T]."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def translate(model: Any, pieces: Pieces, texts: Sequence[str], *, batch: int = 64) -> list[str]:
    """Greedy translations by transformers' `generate`, in batches of like length."""
    sources = pieces.encode(texts)
    order = sorted(range(len(texts)), key=lambda number: len(sources[number]))
    outputs = [""] * len(texts)
    for first in range(0, len(order), batch):
        some = order[first : first + batch]
        ids = padded([sources[number] for number in some], pieces.pad_id).to(model.device)
        with torch.no_grad():
            rows = model.generate(ids, attention_mask=(ids != pieces.pad_id).long())
        for number, text in zip(some, pieces.decode(rows[:, 1:].tolist()), strict=True):
            outputs[number] = text
    return outputs
