"""What `outpace train eagle` does: states of a native model over whole texts, and the training of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from outpace.core.errors import OutpaceError
from outpace.heads.eagle import EagleConfig
from outpace.heads.folder import HEAD_STEP, MAX_SIZE
from outpace.models.text import load
from outpace.progress import Progress
from outpace.train.allocator import keep_freed_memory
from outpace.train.data import MAX_TOKENS, Pair, data_hash, frequent_tokens
from outpace.train.eagle import train_eagle
from outpace.train.examples import FEATURES, token_pairs
from outpace.train.features import ENDS, FeatureFile, add_texts
from outpace.train.loop import Plan
from outpace.train.origin import ORIGIN, claim
from outpace.train.precision import Precision
from outpace.train.recording import FINAL
from outpace.train.texts import Texts

MAX_UNROLLED = 16


@dataclass(frozen=True, slots=True)
class EagleJob:
    """The command's options, by their names.

    taps   None for those of EAGLE-3: an early, a middle and a late layer.
    width  of the feed-forward; None for the model's own.
    name   what the model is called in the heads' folder.
    """

    target: str
    output: Path
    taps: tuple[str, ...] | None
    width: int | None
    tokens: int
    unrolled: int
    steps: int
    batch: int
    lr: float
    precision: Precision
    checkpoint_s: float
    seed: int
    threads: int | None
    name: str | None = None

    def run(self, pairs: Sequence[Pair], progress: Progress | None) -> EagleConfig:
        """Write the states and train."""
        keep_freed_memory()
        if self.threads:
            torch.set_num_threads(self.threads)
        self.check()
        plan = Plan(self.steps, self.lr, seed=self.seed, checkpoint_s=self.checkpoint_s)
        model = load(self.target, threads=self.threads)
        target: Any = model.target
        taps = self.taps or early_middle_late(target.num_layers)
        target.tap(*taps)
        read, texts = whole_texts(model, self.output, pairs, taps, progress)
        ids = frequent_tokens([answer for _, answer in read], self.tokens)
        config = EagleConfig(
            generation="eagle3", hidden_size=target.hidden_size, taps=tuple(taps), num_tokens=len(ids),
            target=target.fingerprint(), model=self.name or model.name, fc_norm=True,
            norm_before_residual=True, norm_output=True, vocab_size=target.vocab_size,
            **like(target.config, self.width),
        )  # fmt: skip
        return train_eagle(
            target,
            texts,
            self.output,
            config,
            ids,
            unrolled=self.unrolled,
            batch=self.batch,
            plan=plan,
            precision=self.precision,
            data=data_hash(pairs),
            progress=progress,
        )

    def check(self) -> None:
        """OutpaceError for options that nothing can be trained with, which hours of texts need not show."""
        limits = {"unrolled": MAX_UNROLLED, "width": MAX_SIZE, "tokens": MAX_SIZE, "batch": MAX_SIZE}
        for option, most in limits.items():
            value = getattr(self, option)
            if value is not None and not 1 <= value <= most:
                raise OutpaceError(f"eagle has {option}={value}, accepted are whole numbers from 1 to {most}")
        if self.taps is not None and (not self.taps or len(set(self.taps)) != len(self.taps)):
            raise OutpaceError(
                f"eagle has taps {', '.join(self.taps)}; accepted are one or more different ones"
            )


def whole_texts(
    model: Any,
    output: Path,
    pairs: Sequence[Pair],
    taps: Sequence[str],
    progress: Progress | None,
) -> tuple[list[tuple[list[int], list[int]]], Texts]:
    """The pairs as tokens, and their states at taps that the model offers, kept in the output folder."""
    target = model.target
    read = token_pairs(pairs, model, min(MAX_TOKENS, target.context_length))
    states = output / FEATURES
    facts = {
        "target": target.fingerprint(), "data": f"whole texts, {data_hash(pairs)}", "taps": ", ".join(taps)
    }  # fmt: skip
    claim(states / ORIGIN, facts, begun=(states / ENDS).exists())
    file = FeatureFile(states, (len(taps) + 1) * target.hidden_size)
    # The first token of a text was chosen from nothing.
    whole = [([*prompt, *answer], 1) for prompt, answer in read]
    add_texts(file, target, whole, taps=(*taps, FINAL), progress=progress)
    return read, Texts(file.read(), np.array([len(prompt) - 1 for prompt, _ in read], np.int64))


def early_middle_late(num_layers: int) -> tuple[str, ...]:
    """EAGLE-3's taps, as far as a small model has them: what layers 2, n / 2 and n - 3 read."""
    found = sorted({min(max(layer - 1, 0), num_layers - 1) for layer in (2, num_layers // 2, num_layers - 3)})
    return tuple(map(str, found))


def like(model: Any, width: int | None) -> dict[str, Any]:
    """The shape of a layer of this model (a `ModelConfig`), without the scaling of its rotary tables."""
    # Entry i is x^(-2i/d), or all of them divided by one factor: two tell x.
    inv_freq = model.rope_inv_freq[0].astype(np.float64)
    theta = float((inv_freq[1] / inv_freq[0]) ** (-model.head_dim / 2))
    heads = {"num_heads": model.num_heads, "num_kv_heads": model.num_kv_heads, "head_dim": model.head_dim}
    assert model.head_dim % HEAD_STEP == 0, "as every native model has it"
    return {
        **heads,
        "intermediate_size": width or model.intermediate_size,
        "rms_eps": model.rms_eps,
        "rope_theta": float(f"{theta:.4g}"),
        "rope_length": model.context_length,
    }
