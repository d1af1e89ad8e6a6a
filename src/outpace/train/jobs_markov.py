"""What `outpace train markov_heads` does: states of a native model, and the training of heads on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from outpace.heads.markov_heads import MarkovConfig
from outpace.models.text import load
from outpace.progress import Progress
from outpace.train.allocator import keep_freed_memory
from outpace.train.data import Pair, frequent_tokens
from outpace.train.examples import native_features
from outpace.train.loop import Plan
from outpace.train.markov_heads import check_options, train_markov
from outpace.train.precision import Precision
from outpace.train.recording import FINAL


@dataclass(frozen=True, slots=True)
class MarkovJob:
    """The command's options, by their names.

    taps  None for the model's thirds and its end. name: what the model is called in the heads' folder.
    """

    target: str
    output: Path
    taps: tuple[str, ...] | None
    length: int
    width: int
    rank: int
    tokens: int
    steps: int
    segments: int
    lr: float
    precision: Precision
    checkpoint_s: float
    seed: int
    threads: int | None
    own_text: int
    name: str | None = None

    def run(self, pairs: Sequence[Pair], progress: Progress | None) -> MarkovConfig:
        """Write the states and train."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        model = load(self.target, threads=self.threads)
        target: Any = model.target
        taps = self.taps or thirds(target.num_layers)
        plan = Plan(self.steps, self.lr, seed=self.seed, checkpoint_s=self.checkpoint_s)
        check_options(
            taps=taps,
            length=self.length,
            width=self.width,
            rank=self.rank,
            segments=self.segments,
            precision=self.precision,
        )
        features, data = native_features(
            model, self.output, pairs, own_text=self.own_text, seed=self.seed, taps=taps, progress=progress
        )
        return train_markov(
            target,
            features,
            self.output,
            taps=taps,
            token_ids=frequent_tokens([features.tokens.tolist()], self.tokens),
            length=self.length,
            width=self.width,
            rank=self.rank,
            segments=self.segments,
            plan=plan,
            precision=self.precision,
            name=self.name or model.name,
            data=data,
            progress=progress,
        )


def thirds(num_layers: int) -> tuple[str, ...]:
    """The taps behind one third and two thirds of the layers, and behind all."""
    found = [str(number * num_layers // 3 - 1) for number in (1, 2) if number * num_layers >= 3]
    return (*dict.fromkeys(found), FINAL)
