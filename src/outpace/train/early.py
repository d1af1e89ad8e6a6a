"""Training of an early head for SPEED: the model is frozen, and its own final output is what to say.

Hooper et al. 2023, "SPEED", arXiv:2310.12072. With the states x[d1] and x[R] after loop d1 and after the last
one, both as the output matrix reads them,

    loss = CE(p(head(x[d1])), p(x[R]))

The labels of a batch only say where there is something to learn: no text needs to be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from outpace.core.errors import OutpaceError
from outpace.heads.early import EarlyConfig, EarlyWeights, read_early, write_early
from outpace.progress import Progress
from outpace.targets.hf_taps import model_fingerprint
from outpace.train.bases import without_gradients
from outpace.train.checkpoint import Checkpoint
from outpace.train.head_losses import HeadLayer
from outpace.train.loop import Loss, Plan, train
from outpace.train.looped import Batches, loop_states, loops_of, output_of
from outpace.train.precision import PRECISIONS, Precision, products_in


def train_early(
    model: Any,
    batches: Batches,
    folder: str | Path,
    *,
    loop: int,
    width: int = 128,
    plan: Plan,
    precision: Precision = "float32",
    targets: Sequence[str] = (),
    name: str = "",
    data: str = "",
    progress: Progress | None = None,
) -> EarlyConfig:
    """Train the head of a torch model's loop (d1) and write it to `folder`, with run.json.

    A folder with the same run goes on, or is done. The model stays as it is, but for its mode: `eval`.

    width    units of the layer.
    targets  fingerprints of other forms of the model that the head is for too: packed ones.
    name     what the model is called. data: names the data in run.json, a hash.

    Raises an OutpaceError for a loop that is none of 1 to R - 1, and for a folder of another run.
    """
    num_loops = loops_of(model)
    if num_loops < 2:
        raise OutpaceError(f"{name or 'the model'} runs its layers once, accepted are looped models")
    if type(loop) is not int or not 1 <= loop < num_loops:
        raise OutpaceError(
            f"an early head has loop={loop!r}, accepted are 1 to {num_loops - 1} of {num_loops}"
        )
    if type(width) is not int or width < 1:
        raise OutpaceError(f"an early head has width={width!r}, accepted are whole numbers >= 1")
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
    matrix = model.get_output_embeddings().weight
    own = model_fingerprint(model)
    forms = (own, *(form for form in dict.fromkeys(targets) if form != own))
    config = EarlyConfig(loop, num_loops, matrix.shape[1], width, forms, name)
    settings = {
        "method": "early", **asdict(config), "data": data, "precision": precision,
        **{option: value for option, value in asdict(plan).items() if option != "checkpoint_s"},
    }  # fmt: skip
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_early(folder).config
    model.eval()
    torch.manual_seed(plan.seed)
    head = HeadLayer(config.hidden_size, 1, width).to(matrix.device)

    def loss(step: int, random: torch.Generator) -> Loss:
        batch = {key: value.to(matrix.device) for key, value in batches(step).items()}
        labels = batch.pop("labels")
        known = labels >= 0
        with without_gradients(model), products_in(precision, matrix.device):
            with torch.no_grad():
                states = loop_states(model, batch, labels)
                final = output_of(model, states[-1][known]).float().softmax(-1)
            said = output_of(model, head(states[loop - 1][known], 0)).float()
            return Loss(cross_entropy(said, final), len(final))

    train([head], loss, plan, checkpoint, progress=progress)
    tensors = {key: value.detach().float().cpu().numpy() for key, value in head.state_dict().items()}
    write_early(folder, EarlyWeights(config, tensors))
    checkpoint.note(finished=asdict(config))
    checkpoint.done()
    return config
