"""What `outpace train medusa` and `outpace train hydra` do: states of a native model, and the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outpace.heads.hydra import METHOD as HYDRA
from outpace.heads.hydra import HydraConfig
from outpace.heads.medusa import METHOD as MEDUSA
from outpace.heads.medusa import MedusaConfig
from outpace.models.text import load
from outpace.progress import Progress
from outpace.train.allocator import keep_freed_memory
from outpace.train.data import Pair, frequent_tokens
from outpace.train.examples import native_features
from outpace.train.hydra import train_hydra
from outpace.train.loop import Plan
from outpace.train.medusa import train_medusa
from outpace.train.precision import Precision
from outpace.train.residual import Outputs, check_options

TRAININGS: Mapping[str, Callable[..., MedusaConfig | HydraConfig]] = {
    MEDUSA: train_medusa,
    HYDRA: train_hydra,
}


@dataclass(frozen=True, slots=True)
class ResidualJob:
    """The command's options, by their names.

    method  one of TRAININGS. tokens: 0 for all. name: what the model is called in the heads' folder.
    """

    method: str
    target: str
    output: Path
    heads: int
    layers: int
    outputs: Outputs
    tokens: int
    steps: int
    batch: int
    lr: float
    precision: Precision
    checkpoint_s: float
    seed: int
    threads: int | None
    own_text: int
    name: str | None = None

    def run(self, pairs: Sequence[Pair], progress: Progress | None) -> MedusaConfig | HydraConfig:
        """Write the states and train."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        model = load(self.target, threads=self.threads)
        target: Any = model.target
        plan = Plan(self.steps, self.lr, seed=self.seed, checkpoint_s=self.checkpoint_s)
        shape: dict[str, Any] = {
            "num_heads": self.heads,
            "num_layers": self.layers,
            "outputs": self.outputs,
            "batch": self.batch,
            "precision": self.precision,
        }
        check_options(self.method, **shape)
        features, data = native_features(
            model, self.output, pairs, own_text=self.own_text, seed=self.seed, progress=progress
        )
        ids = frequent_tokens([features.tokens.tolist()], self.tokens) if self.tokens else None
        return TRAININGS[self.method](
            target,
            features,
            self.output,
            token_ids=np.arange(target.vocab_size) if ids is None else ids,
            **shape,
            plan=plan,
            name=self.name or model.name,
            data=data,
            progress=progress,
        )
