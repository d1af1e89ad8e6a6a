"""Training of proposal heads for blockwise parallel decoding.

Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115, section 6: the k losses together do not fit into memory, so
each step trains one head, drawn at random, an unbiased estimate of their mean. "frozen" trains the heads
alone, "finetuned" the model with them (head 1, its own, is one of the k then).

Deviation. Head 1 is the identity unless `first` says "learned"; a frozen model has nothing to train in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.heads.file import First, Heads, HeadsConfig, read_heads, write_heads
from outpace.progress import Progress
from outpace.train.bases import Base, without_gradients
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import PRECISIONS, Precision, products_in

Regime = Literal["frozen", "finetuned"]
MODEL_FOLDER = "model"
"""Where a finetuned model lies beside its heads."""


class HeadLayer(torch.nn.Module):
    """The feed-forward layer of L learned heads over states of width D (see `heads/proposals.py`)."""

    def __init__(self, hidden_size: int, num_learned: int, width: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(hidden_size, num_learned * width)
        self.output = torch.nn.Linear(num_learned * width, num_learned * hidden_size)
        torch.nn.init.zeros_(self.output.weight)  # every head begins as head 1
        torch.nn.init.zeros_(self.output.bias)
        self.hidden_size = hidden_size

    @torch.no_grad()
    def go_on_from(self, start: Heads) -> None:
        """Begin with fewer heads that are trained already; those beyond them begin as head 1 all the same."""
        for name, parameter in self.named_parameters():
            values = torch.from_numpy(start.tensors[name]).to(parameter.device)
            if values.dim() == 2:
                parameter[: values.shape[0], : values.shape[1]] = values
            else:
                parameter[: values.shape[0]] = values

    def forward(self, states: Tensor, head: int) -> Tensor:
        """[n, D] -> [n, D]: the states of one learned head, numbered from 0."""
        part = slice(head * self.hidden_size, (head + 1) * self.hidden_size)
        wide = torch.relu(self.hidden(states))
        return states + torch.nn.functional.linear(wide, self.output.weight[part], self.output.bias[part])


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
    heads_first: float = 0.0,
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
    heads_first     part of the steps of "finetuned" that train the heads alone: a model that follows heads
                    which do not read its states yet forgets what it can do.
    precision       of matrix products; bfloat16 is faster on some processors, but heads on a frozen model
                    then read states that are a little off those of a model in float32.
    token_ids       ascending: heads draft these tokens only; None for the whole vocabulary.
    start           heads of this model to begin with, as many or fewer.
    data            names the data in run.json: a hash.
    """
    if regime not in get_args(Regime) or (regime == "finetuned" and base.module is None):
        accepted = "frozen" if base.module is None else ", ".join(get_args(Regime))
        raise OutpaceError(f"the regime is {regime!r}, accepted for {base.name} are {accepted}")
    if num_heads < 2 or not 1 <= heads_per_step <= num_heads:
        raise OutpaceError(
            f"blockwise has num_heads={num_heads} and heads_per_step={heads_per_step}, accepted are 2 or "
            "more and 1 to num_heads"
        )
    if not 0 <= heads_first < 1:
        raise OutpaceError(f"blockwise has heads_first={heads_first}, accepted are 0 to less than 1")
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
    if first not in get_args(First):
        raise OutpaceError(f"first is {first!r}, accepted are {', '.join(get_args(First))}")
    width = base.hidden_size if width is None else width
    if width < 1:
        raise OutpaceError(f"blockwise has width={width}, accepted are whole numbers >= 1")
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
    if heads_first:
        settings["heads_first"] = heads_first
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
    trained = list(range(num_heads - learned, num_heads))
    heads_alone = BlockwiseLoss(base, layer, trained, num_heads, heads_per_step, ids, False)
    together = BlockwiseLoss(base, layer, list(range(num_heads)), num_heads, heads_per_step, ids, True)
    alone = round(heads_first * plan.steps) if finetuned else plan.steps

    def loss(step: int, random: torch.Generator) -> Loss:
        if step >= alone:
            with products_in(precision, base.device):
                return together(batches(step), random)
        with without_gradients(base.module), products_in(precision, base.device):
            return heads_alone(batches(step), random)

    modules = [layer, base.module] if finetuned and base.module is not None else [layer]
    train(modules, loss, plan, checkpoint, progress=progress)
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


class BlockwiseLoss:
    """The mean cross-entropy of `heads_per_step` of the `trained` heads (0 is head 1), drawn at random."""

    def __init__(
        self,
        base: Base,
        layer: HeadLayer,
        trained: list[int],
        num_heads: int,
        heads_per_step: int,
        token_ids: NDArray[np.integer] | None,
        finetuned: bool,
    ) -> None:
        self._base = base
        self._layer = layer
        self._trained = trained
        self._num_heads = num_heads
        self._count = min(heads_per_step, len(trained))
        self._finetuned = finetuned
        self._unembed = base.unembedding(token_ids)
        self._number: Tensor | None = None
        if token_ids is not None:
            ids = torch.from_numpy(np.asarray(token_ids, np.int64))
            self._number = torch.full((base.vocab_size,), -100)
            self._number[ids] = torch.arange(len(ids))
            self._number = self._number.to(base.device)
        # Head 1 is the first learned one, or none of them.
        self._identity = layer.output.out_features // layer.hidden_size < num_heads

    def __call__(self, batch: Any, random: torch.Generator) -> Loss:
        with torch.set_grad_enabled(self._finetuned):
            states, ahead = self._base.states(batch, self._num_heads)
        assert states.shape == (len(states), self._layer.hidden_size), "states are [n, D]"
        assert ahead.shape == (len(states), self._num_heads), "as many tokens ahead of each state as heads"
        if self._number is not None:
            ahead = torch.where(ahead < 0, ahead, self._number[ahead.clamp(min=0)])
        picked = torch.randperm(len(self._trained), generator=random)[: self._count].tolist()
        losses, tokens = [], 0
        for head in (self._trained[number] for number in picked):
            known = ahead[:, head] >= 0
            if not bool(known.any()):
                continue
            logits = self._unembed(self.head_states(states[known], head))
            losses.append(torch.nn.functional.cross_entropy(logits.float(), ahead[known, head]))
            tokens += int(known.sum())
        if not losses:  # no text of the batch is as long as the head looks ahead
            return Loss(sum((p.sum() * 0.0 for p in self._layer.parameters()), torch.zeros(())), 0)
        return Loss(torch.stack(losses).mean(), tokens)

    def head_states(self, states: Tensor, head: int) -> Tensor:
        """[n, D]: what the output matrix reads for a head (0 is head 1)."""
        learned = head - self._identity
        return states if learned < 0 else self._layer(states, learned)
