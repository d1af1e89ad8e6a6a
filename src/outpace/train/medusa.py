"""Training of Medusa heads (`heads/medusa.py`) on the states of a frozen model.

Cai et al. 2024, arXiv:2401.10774, sections 2.1.1 and 2.2.1: the residual layers begin at zero and the output
matrices as the model's own, so that every head begins as the model itself; head h has the weight 0.8^h. The
loss is that of `segments.py`: towards the token of the text and, as in section 2.3.2, the model's own law.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.contracts import Embedding
from outpace.heads.medusa import METHOD, MedusaConfig, MedusaWeights, read_medusa, write_medusa
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.features import Features
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import Precision, products_in
from outpace.train.residual import (
    Outputs,
    ResidualBlock,
    check_options,
    logits_of,
    own_outputs,
    settings_of,
)
from outpace.train.segments import SEGMENT, Segments, check_data, half_and_half


def train_medusa(
    target: Embedding,
    features: Features,
    folder: str | Path,
    *,
    token_ids: NDArray[np.integer],
    num_heads: int = 4,
    num_layers: int = 1,
    outputs: Outputs = "shared",
    batch: int = 1024,
    plan: Plan,
    precision: Precision = "float32",
    name: str = "",
    data: str = "",
    progress: Progress | None = None,
) -> MedusaConfig:
    """Train Medusa heads and write them to `folder`, with run.json; the same run goes on, or is done.

    target      its logits are what its output rows make of states, without bias, scale or cap.
    features    its states at "final".
    token_ids   ascending: those that are drafted.
    num_heads   H, how deep they draft. num_layers: residual layers of each.
    outputs     "shared": the heads have the model's own output matrix, which is not trained; "own": each has
                one of its own, which begins as the model's.
    batch       tokens, in segments of SEGMENT.
    precision   of matrix products.
    name        what the model is called. data: names the data in run.json.

    Raises an OutpaceError for options out of range, states of other taps, and a folder of another run.
    """
    check_options(
        METHOD, num_heads=num_heads, num_layers=num_layers, outputs=outputs, batch=batch, precision=precision
    )
    check_data(target, features, 1, token_ids)
    ids = np.asarray(token_ids, np.int64)
    config = MedusaConfig(
        num_heads, num_layers, target.hidden_size, target.vocab_size, len(ids), target.fingerprint(), name,
        original_lm_head=outputs == "shared",
    )  # fmt: skip
    settings = settings_of(METHOD, config, ids, plan, data=data, batch=batch, precision=precision)
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_medusa(folder).config
    output = torch.from_numpy(target.output_rows(ids))
    layers = MedusaLayers(config, output)
    texts = Segments(features, ids, target.vocab_size, length=num_heads, segments=batch // SEGMENT)

    def loss(step: int, random: torch.Generator) -> Loss:
        rows = texts.rows(texts.starts(plan.seed, step))
        states = torch.from_numpy(rows.states[:, :SEGMENT].reshape(-1, target.hidden_size))
        with products_in(precision, torch.device("cpu")):
            logits = layers(states)
        return half_and_half(logits, rows.ahead(slice(None)), output)

    train([layers], loss, plan, checkpoint, progress=progress)
    every = len(ids) == target.vocab_size
    heads = MedusaWeights(config, layers.tensors(), None if every else ids)
    write_medusa(folder, heads, output=output.numpy() if outputs == "shared" else None)
    checkpoint.note(finished=asdict(config))
    checkpoint.done()
    return config


class MedusaLayers(torch.nn.Module):
    """The layers of `heads/medusa.py`, with its names.

    output  f32[M, D], the model's rows for the drafted tokens: what own output matrices begin as, or what
            the heads share, which is no parameter.
    """

    def __init__(self, config: MedusaConfig, output: Tensor) -> None:
        super().__init__()
        c = config
        self.blocks = torch.nn.ModuleList(
            ResidualBlock(c.hidden_size, c.hidden_size, c.num_hidden_layers, bias=c.medusa_fc_bias)
            for _ in range(c.num_heads)
        )
        self.lm_heads = own_outputs(0 if c.original_lm_head else c.num_heads, output)
        self._output = [output]  # in a list, it is no parameter

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """f32 by name, as a folder has them."""
        return {name: value.detach().float().numpy() for name, value in self.state_dict().items()}

    def forward(self, states: Tensor) -> Tensor:
        """[n, D] -> logits [n, H, M]."""
        ahead = [block(states, states) for block in self.blocks]
        return logits_of(ahead, self.lm_heads, self._output[0])
