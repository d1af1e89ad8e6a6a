"""Every kind of heads on the same text, for the same time: what `outpace train` makes of it.

States that heads read are computed once for all kinds that read them at the same taps.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import outpace
from experiments.heads.scales import Scale
from experiments.kit.trainings import is_finished, measured_once, train_within
from outpace.files.backoff import write_backoff
from outpace.files.datastore import vocabulary_id
from outpace.files.whole import write_whole
from outpace.models.text import Model
from outpace.progress import Progress, progress_bar
from outpace.train.data import Pair, read_pairs
from outpace.train.examples import FEATURES
from outpace.train.jobs import BlockwiseJob
from outpace.train.jobs_eagle import EagleJob
from outpace.train.jobs_markov import MarkovJob
from outpace.train.jobs_residual import ResidualJob
from outpace.train.precision import faster_precision
from outpace.train.self_text import OWN_TEXT, write_text

WORK = Path(__file__).parent / "work"
HEADS, STATES, TABLE = "heads", "states", "table.npz"
BATCH = 1024  # tokens
SEGMENT = 64  # of which a batch is made


@dataclass(frozen=True, slots=True)
class Kind:
    """name: of the drafter. states: shared by name. job: made of options that all have and the scale."""

    name: str
    states: str
    job: Callable[[dict[str, Any], Scale], Any]


def own_text(model_name: str, folder: Path, scale: Scale, seed: int) -> Path:
    """The model's own text, as JSON lines; done already: nothing."""
    path = folder / OWN_TEXT
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    lines, count = [], 0
    with outpace.load(model_name) as model, progress_bar() as progress:
        for group in write_text(model, seed=seed):
            for one in group:
                lines.append(json.dumps({"prompt_ids": list(one.prompt_ids), "token_ids": one.token_ids}))
                count += len(one.token_ids)
            if progress is not None:
                progress(min(count, scale.own_tokens), scale.own_tokens, f"{count} tokens of its own")
            if count >= scale.own_tokens:
                break
    write_whole(path, "".join(line + "\n" for line in lines).encode())
    return path


def count_table(model: Model, folder: Path) -> Path:
    """The back-off table of the model's own text; done already: nothing."""
    path = folder / TABLE
    if not path.exists():
        pairs = read_pairs([folder / OWN_TEXT])
        vocab_size = model.target.vocab_size
        write_backoff(
            path,
            ([*pair.given, *pair.wanted] for pair in pairs),
            vocabulary=vocabulary_id(model.tokenizer.text_bytes, vocab_size),
        )
    return path


def train_all(model: str, folder: Path, scale: Scale, *, seed: int) -> None:
    """Heads of every kind into folder/heads; done already: nothing."""
    missing = [kind for kind in KINDS if not is_finished(folder / HEADS / kind.name, seed=seed)]
    if not missing:
        return
    pairs = read_pairs([own_text(model, folder, scale, seed)])
    # Measured once: a training that goes on keeps its precision.
    precision = measured_once(folder, lambda: {"precision": faster_precision("cpu")})["precision"]
    common = {
        "target": model, "tokens": scale.drafted, "lr": 1e-3, "precision": precision, "checkpoint_s": 120.0,
        "seed": seed, "threads": torch.get_num_threads(),
    }  # fmt: skip
    for kind in missing:
        _train(kind, common, pairs, folder, scale)


def _train(kind: Kind, common: dict[str, Any], pairs: Sequence[Pair], folder: Path, scale: Scale) -> None:
    where, states = folder / HEADS / kind.name, folder / STATES / kind.states
    states.mkdir(parents=True, exist_ok=True)

    def run(into: Path, steps: int, progress: Progress | None) -> None:
        into.mkdir(parents=True, exist_ok=True)
        if not (into / FEATURES).exists():
            (into / FEATURES).symlink_to(states.resolve(), target_is_directory=True)
        kind.job({**common, "output": into, "steps": steps}, scale).run(pairs, progress)

    train_within(scale.minutes, where, run, steps=scale.steps)


def _blockwise(common: dict[str, Any], scale: Scale) -> BlockwiseJob:
    return BlockwiseJob(
        **common, regime="frozen", heads=scale.ahead + 1, width=None, first="identity", batch=BATCH,
        heads_per_step=scale.ahead, weights="falling", model_rate=0.5, own_text=0,
    )  # fmt: skip


def _residual(method: str) -> Callable[[dict[str, Any], Scale], ResidualJob]:
    return lambda common, scale: ResidualJob(
        method, **common, heads=scale.ahead, layers=1, outputs="shared", batch=BATCH, own_text=0
    )


def _markov(common: dict[str, Any], scale: Scale) -> MarkovJob:
    return MarkovJob(
        **common, taps=None, length=scale.ahead, width=1280, rank=128, segments=BATCH // SEGMENT, own_text=0
    )


def _eagle(common: dict[str, Any], scale: Scale) -> EagleJob:
    return EagleJob(**common, taps=None, width=None, unrolled=4, batch=2 * BATCH)


KINDS = (
    Kind("blockwise", "final", _blockwise),
    Kind("medusa", "final", _residual("medusa")),
    Kind("hydra", "final", _residual("hydra")),
    Kind("markov_heads", "thirds", _markov),
    Kind("eagle", "whole texts", _eagle),
)
"""From heads that know nothing of each other to a layer that reads what it drafts."""
