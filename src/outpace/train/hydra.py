"""Training of Hydra heads (`heads/hydra.py`) on the states of a frozen model.

Ankner et al. 2024, arXiv:2402.05109. The tokens before a position are known from the text, so all heads
learn at once: head h reads the root and the h - 1 tokens behind it, as if they had been drafted. The loss is
that of `segments.py`: towards the token of the text and, as in Hydra++, the model's own law.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.contracts import Embedding
from outpace.heads.embeddings import embedded
from outpace.heads.hydra import METHOD, HydraConfig, HydraWeights, read_hydra, write_hydra
from outpace.heads.markov_heads import TINY, scaled
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
from outpace.train.segments import SEGMENT, Ahead, Segments, check_data, half_and_half


def train_hydra(
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
) -> HydraConfig:
    """Train Hydra heads and write them to `folder`, with run.json; the same run goes on, or is done.

    target      its logits are what its output rows make of states, without bias, scale or cap.
    features    its states at "final".
    token_ids   ascending: those that are drafted.
    num_heads   H, how deep they draft. num_layers: layers of each, the first of which reads the tokens.
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
    ids = np.asarray(token_ids, np.int32)
    config = HydraConfig(
        num_heads, num_layers, target.hidden_size, target.vocab_size, len(ids), target.fingerprint(), name,
        shared_output=outputs == "shared",
    )  # fmt: skip
    settings = settings_of(METHOD, config, ids, plan, data=data, batch=batch, precision=precision)
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_hydra(folder).config
    examples = HydraData(target, features, ids, num_heads, segments=batch // SEGMENT)
    layers = HydraLayers(config, examples.output)

    def loss(step: int, random: torch.Generator) -> Loss:
        states, tokens, ahead = examples.batch(plan.seed, step)
        with products_in(precision, torch.device("cpu")):
            logits = layers(states, tokens)
        return half_and_half(logits, ahead, examples.output)

    train([layers], loss, plan, checkpoint, progress=progress)
    every = len(ids) == target.vocab_size
    write_hydra(folder, HydraWeights(config, layers.tensors(), None if every else ids))
    checkpoint.note(finished=asdict(config))
    checkpoint.done()
    return config


class HydraData:
    """Batches of states in a row, with the tokens that heads read and what there is to say.

    output  f32[M, D], the output matrix's rows of the drafted tokens.
    """

    def __init__(
        self,
        target: Embedding,
        features: Features,
        token_ids: NDArray[np.int32],
        num_heads: int,
        *,
        segments: int,
    ) -> None:
        self._segments = Segments(features, token_ids, target.vocab_size, length=num_heads, segments=segments)
        self.output = torch.from_numpy(target.output_rows(token_ids))
        used = np.unique(features.tokens)
        self._place = np.zeros(target.vocab_size, np.int64)
        self._place[used] = np.arange(len(used))
        self._embeddings = scaled(embedded(target, METHOD).input_rows(used))

    def batch(self, seed: int, step: int) -> tuple[Tensor, Tensor, Ahead]:
        """States f32[n, D]; embeddings f32[n, H, D] of the root and the tokens behind it; what to say."""
        rows = self._segments.rows(self._segments.starts(seed, step))
        width = self.output.shape[1]
        states = torch.from_numpy(rows.states[:, :SEGMENT].reshape(-1, width))
        before = self._embeddings[self._place[rows.tokens[..., :-1]]]
        tokens = torch.from_numpy(before.reshape(len(states), -1, width))
        return states, tokens, rows.ahead(slice(None))


class HydraLayers(torch.nn.Module):
    """The layers of `heads/hydra.py`, with its names.

    output  f32[M, D], the model's rows for the drafted tokens: what own output matrices begin as, or what
            the heads share, which is no parameter.
    """

    def __init__(self, config: HydraConfig, output: Tensor) -> None:
        super().__init__()
        c, width = config, config.hidden_size
        self.blocks = torch.nn.ModuleList(
            ResidualBlock((head + 2) * width, width, c.num_layers) for head in range(c.num_heads)
        )
        self.lm_heads = own_outputs(0 if c.shared_output else c.num_heads, output)
        self._output = [output]  # in a list, it is no parameter

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """f32 by name, as a folder has them."""
        return {name: value.detach().float().numpy() for name, value in self.state_dict().items()}

    def forward(self, states: Tensor, tokens: Tensor) -> Tensor:
        """States [n, D] and scaled embeddings of the tokens before each position [n, H, D] -> [n, H, M]."""
        size = (states.square().mean(-1, keepdim=True) + TINY).sqrt()
        read = torch.cat([states / size, tokens.flatten(1)], dim=1)
        width = states.shape[1]
        ahead = [block(states, read[:, : (head + 2) * width]) for head, block in enumerate(self.blocks)]
        return logits_of(ahead, self.lm_heads, self._output[0])
