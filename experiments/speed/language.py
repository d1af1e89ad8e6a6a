"""Training of the language models, and how well they predict text that was held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.kit import trainings
from experiments.kit.trainings import LossOf, is_finished
from experiments.speed.models import Kind, kinds, language_model
from experiments.speed.scales import Language, Scale
from experiments.speed.tokens import save_tokenizer, token_array, tokenizer
from outpace.train.loop import Loss
from outpace.train.looped import Early, loop_states, looped_loss, output_of
from outpace.train.precision import Precision

Batches = Callable[[int], dict[str, Tensor]]
HELD_OUT = 16  # windows in a call


def train_language(work: Path, folder: Path, scale: Scale, *, seed: int = 0) -> None:
    """Every language model of a scale into folder/SIZE-KIND; done already: nothing."""
    for label, size in scale.language.items():
        for name, kind in kinds(size.layers, size.loops, size.early, alone=size.alone).items():
            _train(work, folder / f"{label}-{name}", scale, size, kind, seed)


def _train(work: Path, where: Path, scale: Scale, size: Language, kind: Kind, seed: int) -> None:
    if is_finished(where, by="nats", seed=seed):
        return
    tokens, dev = (token_array(work, name, scale.num_tokens) for name in ("train", "dev"))
    batches = windows(tokens, size.window, size.batch, seed)

    def finish(model: Any, steps: int) -> dict[str, Any]:
        model.config.num_loops = kind.loops
        model.save_pretrained(where)
        save_tokenizer(tokenizer(work, scale.num_tokens), where)
        seen = steps * size.batch * size.window
        return {"nats": nats_by_loop(model, dev[: scale.held_out], size.window), "tokens_seen": seen}

    trainings.train_base(
        where,
        lambda: language_model(size, kind, scale.num_tokens, seed),
        lambda model, precision: _loss(model, batches, size, kind, seed, precision),
        finish,
        settings={
            "num_tokens": scale.num_tokens,
            "width": size.width,
            "layers": kind.layers,
            "loops": kind.loops,
            "early": kind.named,
            "batch": size.batch,
            "window": size.window,
            "once": size.once if kind.loops > 1 else 0,
            "text": len(tokens),
        },
        lr=size.lr,
        minutes=0,
        steps=size.steps,
        seed=seed,
        weight_decay=0.01,
    )


def _loss(
    model: Any, batches: Batches, size: Language, kind: Kind, seed: int, precision: Precision
) -> LossOf:
    """The loss of a step, with the loops that this step makes."""

    def loss(step: int, random: torch.Generator) -> Loss:
        loops = loops_in(step, kind.loops, size.once, seed)
        model.config.num_loops = loops
        early = Early({loop: weight for loop, weight in kind.early.items() if loop < loops})
        return looped_loss(model, batches, early, precision=precision)(step, random)

    return loss


def loops_in(step: int, loops: int, once: int, seed: int) -> int:
    """How often the layers run in a step of a training: always R, or once at first and then 2 to R by chance.

    Geiping et al. 2025, arXiv:2502.05171, draw the number too. Every output is trained as the last one.
    """
    if loops == 1 or not once:
        return loops
    return 1 if step < once else int(np.random.default_rng((seed, step)).integers(2, loops, endpoint=True))


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
