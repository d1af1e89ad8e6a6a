"""Training of Medusa heads (`heads/medusa.py`) on the states of a frozen model.

Cai et al. 2024, arXiv:2401.10774, sections 2.1.1 and 2.2.1: the residual layers begin at zero and the output
matrices as the model's own, so that every head begins as the model itself; head h has the weight 0.8^h. The
loss is that of `segments.py`: towards the token of the text and, as in section 2.3.2, the model's own law.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, silu

from outpace.core.contracts import Embedding
from outpace.core.errors import OutpaceError
from outpace.heads.medusa import (
    MAX_HEADS,
    MAX_LAYERS,
    METHOD,
    MedusaConfig,
    MedusaWeights,
    read_medusa,
    write_medusa,
)
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.features import Features
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import PRECISIONS, Precision, products_in
from outpace.train.segments import SEGMENT, Segments, check_data, half_and_half

Outputs = Literal["shared", "own"]
MOST_TOKENS = 1 << 20  # of a batch


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
        num_heads=num_heads, num_layers=num_layers, outputs=outputs, batch=batch, precision=precision
    )
    check_data(target, features, 1, token_ids)
    ids = np.asarray(token_ids, np.int64)
    config = MedusaConfig(
        num_heads, num_layers, target.hidden_size, target.vocab_size, len(ids), target.fingerprint(), name,
        original_lm_head=outputs == "shared",
    )  # fmt: skip
    settings = {
        **asdict(config), "method": METHOD, "data": data, "batch": batch, "precision": precision,
        "token_ids": f"sha256:{hashlib.sha256(ids.tobytes()).hexdigest()}",
        **{option: value for option, value in asdict(plan).items() if option != "checkpoint_s"},
    }  # fmt: skip
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


class ResidualBlock(torch.nn.Module):
    """The residual layers of one head; they begin as the identity."""

    def __init__(self, config: MedusaConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(width, width, bias=config.medusa_fc_bias) for _ in range(config.num_hidden_layers)
        )
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, states: Tensor) -> Tensor:
        """[n, D] -> [n, D]."""
        for layer in self.layers:
            states = states + silu(layer(states))
        return states


class MedusaLayers(torch.nn.Module):
    """The layers of `heads/medusa.py`, with its names.

    output  f32[M, D], the model's rows for the drafted tokens: what own output matrices begin as, or what
            the heads share, which is no parameter.
    """

    def __init__(self, config: MedusaConfig, output: Tensor) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(ResidualBlock(config) for _ in range(config.num_heads))
        self.lm_heads = torch.nn.ModuleList()
        self._shared = [output] if config.original_lm_head else []
        for _ in range(0 if config.original_lm_head else config.num_heads):
            own = torch.nn.Linear(config.hidden_size, config.truncated_vocab_size, bias=False)
            own.weight = torch.nn.Parameter(output.clone())
            self.lm_heads.append(own)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """f32 by name, as a folder has them."""
        return {name: value.detach().float().numpy() for name, value in self.state_dict().items()}

    def forward(self, states: Tensor) -> Tensor:
        """[n, D] -> logits [n, H, M]."""
        ahead = [block(states) for block in self.blocks]
        if self._shared:
            return linear(torch.stack(ahead, dim=1), self._shared[0])
        return torch.stack([own(one) for own, one in zip(self.lm_heads, ahead, strict=True)], dim=1)


def check_options(*, num_heads: int, num_layers: int, outputs: str, batch: int, precision: str) -> None:
    """OutpaceError for options that nothing can be trained with, which hours of states need not show."""
    ranges = {"num_heads": MAX_HEADS, "num_layers": MAX_LAYERS}
    for option, value in {"num_heads": num_heads, "num_layers": num_layers}.items():
        if type(value) is not int or not 1 <= value <= ranges[option]:
            raise OutpaceError(
                f"medusa has {option}={value!r}, accepted are whole numbers from 1 to {ranges[option]}"
            )
    if type(batch) is not int or not 0 < batch <= MOST_TOKENS or batch % SEGMENT:
        raise OutpaceError(
            f"medusa has batch={batch!r}, accepted are multiples of {SEGMENT} up to {MOST_TOKENS}"
        )
    if outputs not in get_args(Outputs):
        raise OutpaceError(f"outputs is {outputs!r}, accepted are {', '.join(get_args(Outputs))}")
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
