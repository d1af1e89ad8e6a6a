"""What `outpace train early_exit` does: states of a native model over whole texts, training of an adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from outpace.core.call import Call
from outpace.core.errors import OutpaceError
from outpace.core.tree import TokenTree
from outpace.heads.exit_adapter import AdapterConfig
from outpace.heads.exit_adapter_layer import Exited, exited
from outpace.heads.folder import MAX_SIZE
from outpace.heads.markov_heads import scaled
from outpace.models.text import load
from outpace.progress import Progress
from outpace.train.allocator import keep_freed_memory
from outpace.train.data import Pair, data_hash, frequent_tokens
from outpace.train.early_exit import train_early_exit
from outpace.train.jobs_eagle import like, whole_texts
from outpace.train.loop import Plan
from outpace.train.precision import Precision
from outpace.train.recording import FINAL

SIXTEENTH = 16  # of the layers stand before an adapter, as in the paper: 2 of 32
SHAPE = ("num_heads", "num_kv_heads", "head_dim", "rms_eps", "rope_theta")


@dataclass(frozen=True, slots=True)
class EarlyExitJob:
    """The command's options, by their names.

    layers  before the adapter; 0 for a sixteenth of the model's.
    tokens  that are drafted; 0 for all.
    name    what the model is called in the adapter's folder.
    """

    target: str
    output: Path
    layers: int
    tokens: int
    steps: int
    batch: int
    lr: float
    precision: Precision
    checkpoint_s: float
    seed: int
    threads: int | None
    name: str | None = None

    def run(self, pairs: Sequence[Pair], progress: Progress | None) -> AdapterConfig:
        """Write the states and train."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        self.check()
        plan = Plan(self.steps, self.lr, seed=self.seed, checkpoint_s=self.checkpoint_s)
        model = load(self.target, threads=self.threads)
        target: Any = exited(model.target)
        layers = self.layers or max(1, min(round(target.num_layers / SIXTEENTH), target.num_layers - 1))
        if not 1 <= layers < target.num_layers:
            raise OutpaceError(
                f"early_exit has layers={layers}, accepted are 1 to {target.num_layers - 1} of the model's "
                f"{target.num_layers} (0: a sixteenth)"
            )
        shape = like(target.config, None)
        config = AdapterConfig(
            layers=layers, hidden_size=target.hidden_size, target=target.fingerprint(),
            model=self.name or model.name,
            **{name: shape[name] for name in SHAPE},
        )  # fmt: skip
        target.tap(config.tap)
        read, texts = whole_texts(model, self.output, pairs, (config.tap,), progress)
        return train_early_exit(
            target,
            texts,
            self.output,
            config,
            last_norm(target, [*read[0][0], *read[0][1]]),
            frequent_tokens([answer for _, answer in read], self.tokens) if self.tokens else None,
            batch=self.batch,
            plan=plan,
            precision=self.precision,
            data=data_hash(pairs),
            progress=progress,
        )

    def check(self) -> None:
        """OutpaceError for options that nothing can be trained with, which hours of texts need not show."""
        for option, least in {"layers": 0, "tokens": 0, "batch": 1}.items():
            if not least <= (value := getattr(self, option)) <= MAX_SIZE:
                raise OutpaceError(
                    f"early_exit has {option}={value}, accepted are whole numbers from {least} to {MAX_SIZE}"
                )


def last_norm(target: Exited, text: Sequence[int]) -> NDArray[np.float32]:
    """f32[D]: what a norm without weights, of the last layer's states, is multiplied by to be the model's.

    Told by the states of a few tokens, so that no format of weights need be known.
    """
    last = str(target.num_layers - 1)
    target.tap(last)
    row = target.open()
    scores = target.score([Call.on(row, TokenTree.chain(text[0], text[1:64]))])
    bare, normed = scaled(scores.hidden(last)), scores.hidden(FINAL)
    target.free([row])
    found: NDArray[np.float32] = (bare * normed).sum(0) / np.maximum((bare * bare).sum(0), 1e-20)
    return found
