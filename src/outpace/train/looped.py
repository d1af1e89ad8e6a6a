"""Training of looped models: the last loop's loss, and a weighted part of early loops'.

Hooper et al. 2023, "SPEED", arXiv:2310.12072, trains a decoder with shared layers for early predictions. Its
recipe is not public; this one is

    loss = CE(p[R], labels) + sum over early loops d of weight[d] * CE(p[d], towards)

where p[d] [n, V] is what the model's last norm and output matrix make of the states after loop d. `towards`
is "labels", or "final": p[R], which gets no gradient. The latter asks for agreement, which is what a pipeline
lives on; the former for good early predictions, which may agree less. "mutual" is KL(p[R] || p[d]), and p[R]
gets its gradient too: both sides give way, for still more agreement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

from outpace.core.errors import OutpaceError
from outpace.progress import Progress
from outpace.targets.hf_wrapped import plain_model
from outpace.train.bases import shifted
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import PRECISIONS, Precision, products_in

Towards = Literal["labels", "final", "mutual"]
Batches = Callable[[int], dict[str, Tensor]]
"""A step's batch, a function of the step alone: the model's arguments, and labels i64[B, T] (-100: none)."""


@dataclass(frozen=True, slots=True)
class Early:
    """What is asked of early loops. weights: loop -> weight of its loss; none for a model of one loop."""

    weights: Mapping[int, float] = field(default_factory=dict)
    towards: Towards = "final"

    def __post_init__(self) -> None:
        if self.towards not in get_args(Towards):
            raise OutpaceError(f"towards is {self.towards!r}, accepted are {', '.join(get_args(Towards))}")

    def check(self, num_loops: int) -> None:
        """An OutpaceError for loops that a model with so many does not have before its last."""
        for loop, weight in self.weights.items():
            if type(loop) is not int or not 1 <= loop < num_loops or not weight > 0:
                some = f"1 to {num_loops - 1}" if num_loops > 1 else "none"
                raise OutpaceError(
                    f"loop {loop!r} has the weight {weight!r}, accepted are early loops of {num_loops} "
                    f"({some}) and weights > 0"
                )


def looped_loss(
    model: Any,
    batches: Batches,
    early: Early,
    *,
    precision: Precision = "float32",
    smoothing: float = 0.0,
) -> Callable[[int, torch.Generator], Loss]:
    """The loss of a step, for `train.loop.train`. smoothing: of labels, for the loss that reads them."""
    num_loops = loops_of(model)
    early.check(num_loops)
    device = model.get_output_embeddings().weight.device

    def loss(step: int, random: torch.Generator) -> Loss:
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=random)))  # of dropout
        batch = {name: value.to(device) for name, value in batches(step).items()}
        labels = batch.pop("labels")
        known = labels >= 0
        wanted = labels[known]
        with products_in(precision, device):
            states = loop_states(model, batch, labels)
            final = output_of(model, states[-1][known])
            value = cross_entropy(final.float(), wanted, label_smoothing=smoothing)
            for loop, weight in early.weights.items():
                said = output_of(model, states[loop - 1][known]).float()
                value = value + weight * _early_loss(said, final.float(), wanted, early.towards)
        return Loss(value, len(wanted))

    return loss


def train_looped(
    model: Any,
    batches: Batches,
    folder: str | Path,
    *,
    early: Early,
    plan: Plan,
    precision: Precision = "float32",
    smoothing: float = 0.0,
    data: str = "",
    progress: Progress | None = None,
) -> None:
    """Train a torch model of `targets/hf_looped_model.py` in place and write it to `folder`, with run.json.

    A folder with the same run goes on, or is done. `outpace.load(folder)` reads it when a tokenizer is there
    too. data: names the data in run.json, a hash.

    Raises an OutpaceError for early loops that the model does not have, and for a folder of another run.
    """
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
    loss = looped_loss(model, batches, early, precision=precision, smoothing=smoothing)
    config = plain_model(model).config.to_diff_dict()
    settings = {
        "method": "looped", "model": json.loads(json.dumps(config, default=str)), "data": data,
        "early": {str(loop): weight for loop, weight in early.weights.items()}, "towards": early.towards,
        "precision": precision, "smoothing": smoothing,
        **{name: value for name, value in asdict(plan).items() if name != "checkpoint_s"},
    }  # fmt: skip
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        model.load_state_dict(type(model).from_pretrained(folder, dtype=torch.float32).state_dict())
        return
    train([model.train()], loss, plan, checkpoint, progress=progress)
    try:
        model.eval().save_pretrained(folder)
    except OSError as error:
        raise OutpaceError(f"cannot write {folder}: {error.strerror or error}") from error
    checkpoint.note(finished=True)
    checkpoint.done()


def _early_loss(said: Tensor, final: Tensor, wanted: Tensor, towards: Towards) -> Tensor:
    """Of logits [n, V] after an early loop and after the last one, and i64[n] labels."""
    if towards == "labels":
        return cross_entropy(said, wanted)
    if towards == "final":
        return cross_entropy(said, final.detach().softmax(-1))
    return kl_div(said.log_softmax(-1), final.log_softmax(-1), log_target=True, reduction="batchmean")


def loops_of(model: Any) -> int:
    """R; 1 for a model whose layers run once."""
    return int(getattr(plain_model(model).config, "num_loops", 1))


def loop_states(model: Any, batch: Mapping[str, Tensor], labels: Tensor) -> list[Tensor]:
    """After each loop [B, T, D], what the output matrix reads; of a model of one loop the last alone.

    labels  i64[B, T]: what an encoder-decoder model is to say, which its decoder reads.
    """
    config, options = model.config, {"use_cache": False, "output_hidden_states": True}
    if not config.is_encoder_decoder:
        seen = model.base_model(**batch, **options)
        return [*seen.hidden_states[1:]] if loops_of(model) > 1 else [seen.last_hidden_state]
    seen = model.base_model(**batch, decoder_input_ids=shifted(labels, config), **options)
    return [*seen.decoder_hidden_states[1:]] if loops_of(model) > 1 else [seen.last_hidden_state]


def output_of(model: Any, states: Tensor) -> Tensor:
    """[n, D] -> logits [n, V]."""
    logits: Tensor = model.get_output_embeddings()(states)
    bias = getattr(model, "final_logits_bias", None)  # of Marian
    return logits if bias is None else logits + bias[0]
