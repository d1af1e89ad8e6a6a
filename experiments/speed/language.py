"""Training of the language models, and how well they predict text that was held out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.kit import trainings
from experiments.kit.trainings import LossOf, is_finished
from experiments.speed.models import (
    BASE,
    SPEED,
    Kind,
    Stage,
    drawn,
    kinds,
    language_model,
    loops_in,
    loss_with,
)
from experiments.speed.scales import Language, Scale, Tuning
from experiments.speed.tokens import save_tokenizer, token_array, tokenizer
from outpace.targets.hf_looped_model import LoopedForCausalLM
from outpace.train.looped import Early, loop_states, output_of
from outpace.train.precision import Precision

Batches = Callable[[int], dict[str, Tensor]]
HELD_OUT = 16  # windows in a call


def train_language(work: Path, folder: Path, scale: Scale, *, seed: int = 0) -> None:
    """Every language model of a scale into folder/SIZE-KIND; done already: nothing.

    The one for SPEED is trained into folder/SIZE-base, and then learns to agree with itself.
    """
    for label, size in scale.language.items():
        for name, kind in kinds(size.layers, size.loops, size.early, alone=size.alone).items():
            where, base = folder / f"{label}-{name}", folder / f"{label}-{BASE}"
            if name != SPEED:
                base = where
            _train(work, base, scale, size, kind, from_nothing(size, kind, scale.num_tokens, seed), seed)
            if name == SPEED:
                _train(work, where, scale, size, kind, tuned(base, size.tuning, kind, seed + 1), seed + 1)


def from_nothing(size: Language, kind: Kind, num_tokens: int, seed: int) -> Stage:
    """From random weights."""
    once = size.once if kind.loops > 1 else 0
    loops = partial(loops_in, loops=kind.loops, once=once, seed=seed)
    settings = {"early": kind.named, "once": once}
    new = partial(language_model, size, kind, num_tokens, seed)
    return Stage(new, loops, kind.loss, size.steps, size.lr, settings)


def tuned(base: Path, tuning: Tuning, kind: Kind, seed: int) -> Stage:
    """From a model that predicts already."""
    early = Early({1: tuning.weight}, "mutual")
    settings = {"early": {"1": tuning.weight}, "towards": early.towards}
    new = partial(LoopedForCausalLM.from_pretrained, base, dtype=torch.float32)
    loops = partial(drawn, loops=kind.loops, seed=seed)
    return Stage(new, loops, early, tuning.steps, tuning.lr, settings)


def _train(
    work: Path, where: Path, scale: Scale, size: Language, kind: Kind, stage: Stage, seed: int
) -> None:
    if is_finished(where, by="nats", seed=seed):
        return
    tokens, dev = (token_array(work, name, scale.num_tokens) for name in ("train", "dev"))
    batches = windows(tokens, size.window, size.batch, seed)

    def loss_of(model: Any, precision: Precision) -> LossOf:
        return loss_with(model, batches, stage.loops, stage.early, precision=precision)

    def finish(model: Any, steps: int) -> dict[str, Any]:
        model.config.num_loops = kind.loops
        model.save_pretrained(where)
        save_tokenizer(tokenizer(work, scale.num_tokens), where)
        seen = steps * size.batch * size.window
        return {"nats": nats_by_loop(model, dev[: scale.held_out], size.window), "tokens_seen": seen}

    trainings.train_base(
        where,
        stage.new,
        loss_of,
        finish,
        settings={
            "num_tokens": scale.num_tokens,
            "width": size.width,
            "layers": kind.layers,
            "loops": kind.loops,
            "batch": size.batch,
            "window": size.window,
            "text": len(tokens),
            **stage.settings,
        },
        lr=stage.lr,
        minutes=0,
        steps=stage.steps,
        seed=seed,
        weight_decay=0.01,
    )


def windows(tokens: NDArray[np.uint16], window: int, batch: int, seed: int) -> Batches:
    """Examples from anywhere in a text; a step's batch is a function of the step alone."""

    def some(step: int) -> dict[str, Tensor]:
        starts = np.random.default_rng((seed, step)).integers(0, len(tokens) - window, batch)
        rows = np.stack([tokens[start : start + window + 1] for start in starts]).astype(np.int64)
        ids = torch.from_numpy(rows)
        return {"input_ids": ids[:, :-1], "labels": ids[:, 1:]}

    return some


@torch.no_grad()
def nats_by_loop(model: Any, tokens: NDArray[np.uint16], window: int) -> list[float]:
    """The mean surprise of a token, in nats, by the output after each loop; windows begin anew."""
    count = (len(tokens) - 1) // window
    ids = torch.from_numpy(np.asarray(tokens[: count * window + 1], np.int64))
    given, labels = ids[:-1].view(count, window), ids[1:].view(count, window)
    total: list[float] = []
    for first in range(0, count, HELD_OUT):
        some, wanted = given[first : first + HELD_OUT], labels[first : first + HELD_OUT]
        states = loop_states(model, {"input_ids": some}, wanted)
        total = total or [0.0] * len(states)
        for loop, state in enumerate(states):
            logits = output_of(model, state).flatten(0, 1)
            total[loop] += float(cross_entropy(logits, wanted.flatten(), reduction="sum"))
    return [round(one / (count * window), 4) for one in total]
