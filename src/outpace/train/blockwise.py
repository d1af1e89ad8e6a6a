"""Training of proposal heads for blockwise parallel decoding.

Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115, section 6: the k losses together do not fit into memory, so
each step trains one head, drawn at random, an unbiased estimate of their mean. "frozen" trains the heads
alone, "finetuned" the model with them (head 1, its own, is one of the k then).

Deviations. Head 1 is the identity unless `first` says "learned"; a frozen model has nothing to train in it.
The heads' losses have weights, which fall by default (`head_losses.py`). A finetuned model may have a part of
the heads' rate, and batches of its own task between theirs (`Trunk`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.heads.file import First, Heads, HeadsConfig, read_heads, write_heads
from outpace.heads.folder import MAX_SIZE
from outpace.progress import Progress
from outpace.train.bases import Base, without_gradients
from outpace.train.checkpoint import Checkpoint
from outpace.train.head_losses import BlockwiseLoss, HeadLayer, falling
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import PRECISIONS, Precision, products_in

Regime = Literal["frozen", "finetuned"]
MODEL_FOLDER = "model"
"""Where a finetuned model lies beside its heads."""


@dataclass(frozen=True, slots=True)
class Trunk:
    """How a model learns that is finetuned with its heads.

    heads_first  part of the steps that train the heads alone: a model that follows heads which do not read
                 its states yet forgets what it can do. Its rate warms up after them.
    rate         of learning, as a part of the heads' rate.
    gold         batches of the model's task, where the others are what it has said itself: every second step
                 then teaches head 1 alone, from these. None: there are none.
    """

    heads_first: float = 0.0
    rate: float = 1.0
    gold: Callable[[int], Any] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.heads_first < 1 or not 0 < self.rate < math.inf:
            raise OutpaceError(
                f"a model is finetuned with heads_first={self.heads_first} and rate={self.rate}, accepted "
                "are 0 to less than 1, and numbers > 0"
            )

    def learns(self, plan: Plan, step: int) -> bool:
        """Whether the model's weights change in a step."""
        return step >= round(self.heads_first * plan.steps)

    def is_gold(self, plan: Plan, step: int) -> bool:
        """Whether a step is one of the model's task."""
        return self.gold is not None and self.learns(plan, step) and step % 2 == 1

    def rate_of(self, plan: Plan, step: int) -> float:
        """The model's learning rate: it warms up from where it begins to learn."""
        begun = step - round(self.heads_first * plan.steps)
        return self.rate * plan.rate(step) * min(1.0, max(0, begun + 1) / plan.warm_steps)


def train_blockwise(
    base: Base,
    batches: Callable[[int], Any],
    folder: str | Path,
    *,
    num_heads: int = 4,
    width: int | None = None,
    regime: Regime = "frozen",
    first: First = "identity",
    plan: Plan,
    heads_per_step: int = 1,
    weights: Sequence[float] | None = None,
    trunk: Trunk = Trunk(),
    precision: Precision = "float32",
    token_ids: NDArray[np.integer] | None = None,
    start: Heads | None = None,
    data: str = "",
    progress: Progress | None = None,
) -> HeadsConfig:
    """Train heads and write them to `folder`, with run.json; a folder with the same run goes on, or is done.

    base            the model; "finetuned" changes it in place and writes it to folder/model, where it lies
                    already if the folder is done.
    batches         a step's batch, of whatever kind the base reads; a function of the step alone.
    num_heads       k, head 1 included. width: units of the hidden layer per head, None for the model's width.
    heads_per_step  how many heads share each batch: 1 is the paper's, more take more memory and time a step.
    weights         of the k heads' losses; None for those that fall.
    trunk           how the model learns; for "finetuned" alone.
    precision       of matrix products; bfloat16 is faster on some processors, but heads on a frozen model
                    then read states that are a little off those of a model in float32.
    token_ids       ascending: heads draft these tokens only; None for the whole vocabulary.
    start           heads of this model to begin with, as many or fewer.
    data            names the data in run.json: a hash.
    """
    if regime not in get_args(Regime) or (regime == "finetuned" and base.module is None):
        accepted = "frozen" if base.module is None else ", ".join(get_args(Regime))
        raise OutpaceError(f"the regime is {regime!r}, accepted for {base.name} are {accepted}")
    if not 2 <= num_heads <= MAX_SIZE or not 1 <= heads_per_step <= num_heads:
        raise OutpaceError(
            f"blockwise has num_heads={num_heads} and heads_per_step={heads_per_step}, accepted are 2 to "
            f"{MAX_SIZE} and 1 to num_heads"
        )
    weights = _checked_weights(falling(num_heads) if weights is None else weights, num_heads)
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
    if first not in get_args(First):
        raise OutpaceError(f"first is {first!r}, accepted are {', '.join(get_args(First))}")
    width = base.hidden_size if width is None else width
    if not 1 <= width <= MAX_SIZE:
        raise OutpaceError(f"blockwise has width={width}, accepted are whole numbers from 1 to {MAX_SIZE}")
    ids = None if token_ids is None else _checked_ids(token_ids, base.vocab_size)
    if start is not None:
        _check_start(start.config, base, num_heads, width, first)
    finetuned = regime == "finetuned"
    settings = {
        "method": "blockwise", "model": base.name, "num_heads": num_heads, "width": width, "regime": regime,
        "first": first, "steps": plan.steps, "lr": plan.lr, "seed": plan.seed, "data": data,
        "heads_per_step": heads_per_step, "warmup": plan.warmup, "weight_decay": plan.weight_decay,
        "num_tokens": None if ids is None else len(ids), "token_ids": None if ids is None else _hash(ids),
    }  # fmt: skip
    settings["weights"] = [round(weight, 6) for weight in weights]
    if finetuned:
        settings |= {"heads_first": trunk.heads_first, "trunk": trunk.rate, "gold": trunk.gold is not None}
    if precision != "float32":
        settings["precision"] = precision
    if start is not None:
        settings["start"] = _hash(*(start.tensors[name] for name in sorted(start.tensors)))
    if not finetuned or start is not None:
        settings["target"] = base.fingerprint()
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_heads(folder).config
    torch.manual_seed(plan.seed)
    learned = num_heads - (first == "identity")
    layer = HeadLayer(base.hidden_size, learned, width).to(base.device)
    if start is not None:
        layer.go_on_from(start)
    # Head 1 has nothing to learn where it is the identity and the model is frozen.
    of_heads = weights if learned == num_heads else (0.0, *weights[1:])

    def loss_of(some: Sequence[float], *, learns: bool) -> BlockwiseLoss:
        return BlockwiseLoss(base, layer, some, heads_per_step, ids, learns)

    heads_alone, together = loss_of(of_heads, learns=False), loss_of(weights, learns=True)
    # The model's own task has its whole vocabulary.
    own_task = BlockwiseLoss(base, layer, (1.0, *(0.0 for _ in weights[1:])), 1, None, finetuned=True)

    def loss(step: int, random: torch.Generator) -> Loss:
        if not finetuned or not trunk.learns(plan, step):
            with without_gradients(base.module), products_in(precision, base.device):
                return heads_alone(batches(step), random)
        assert base.module is not None, "what is finetuned has a module"
        base.module.train()
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=random)))  # of dropout
        with products_in(precision, base.device):
            if trunk.gold is not None and trunk.is_gold(plan, step):
                return own_task(trunk.gold(step), random)
            return together(batches(step), random)

    if finetuned and base.module is not None:
        rates = [plan.rate, lambda step: trunk.rate_of(plan, step)]
        train([layer, base.module], loss, plan, checkpoint, rates=rates, progress=progress)
        base.module.eval()
    else:
        train([layer], loss, plan, checkpoint, progress=progress)
    if finetuned:
        base.save(Path(folder) / MODEL_FOLDER)
    config = HeadsConfig(num_heads, base.hidden_size, width, base.fingerprint(), base.name, first)
    tensors = {name: value.detach().float().cpu().numpy() for name, value in layer.state_dict().items()}
    write_heads(folder, Heads(config, tensors, ids))
    checkpoint.note(finished={name: getattr(config, name) for name in HeadsConfig.__slots__})
    checkpoint.done()
    return config


def _check_start(start: HeadsConfig, base: Base, num_heads: int, width: int, first: First) -> None:
    """OutpaceError for heads that a training of such heads cannot begin with."""
    if start.target != base.fingerprint():
        raise OutpaceError(
            f"the heads to begin with are those of {start.model or 'another model'}, accepted are of "
            f"{base.name}"
        )
    if start.num_heads > num_heads or (start.width, start.first) != (width, first):
        raise OutpaceError(
            f"the heads to begin with are {start.num_heads} of width {start.width}, first {start.first}; "
            f"accepted are {num_heads} or fewer of width {width}, first {first}"
        )


def _checked_weights(weights: Sequence[float], num_heads: int) -> tuple[float, ...]:
    if len(weights) != num_heads or min(weights) < 0 or not 0 < sum(weights[1:]) < math.inf:
        raise OutpaceError(
            f"blockwise has weights={list(weights)}, accepted are {num_heads} numbers >= 0, not all of those "
            "after the first 0"
        )
    return tuple(weight / sum(weights) for weight in weights)


def _checked_ids(token_ids: NDArray[np.integer], vocab_size: int) -> NDArray[np.int32]:
    ids = np.asarray(token_ids)
    if not len(ids) or ids[0] < 0 or ids[-1] >= vocab_size or (ids[1:] <= ids[:-1]).any():
        raise OutpaceError(f"token_ids are not one or more ascending ids of 0 to {vocab_size - 1}")
    return ids.astype(np.int32)


def _hash(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"
