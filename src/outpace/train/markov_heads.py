"""Training of Markov heads (`heads/markov_heads.py`) on the states of a frozen model.

The tokens before a position are known from the text, so all positions learn at once: the token there, and the
model's own law (`segments.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, silu

from outpace.core.contracts import Embedding
from outpace.core.errors import OutpaceError
from outpace.heads.folder import MAX_SIZE
from outpace.heads.markov_heads import (
    MAX_LENGTH,
    MarkovConfig,
    MarkovWeights,
    read_markov,
    scaled,
    write_markov,
)
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.features import Features
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import PRECISIONS, Precision, products_in
from outpace.train.recording import FINAL
from outpace.train.segments import SEGMENT, Ahead, Segments, check_data, half_and_half


def train_markov(
    target: Embedding,
    features: Features,
    folder: str | Path,
    *,
    taps: Sequence[str],
    token_ids: NDArray[np.integer],
    length: int = 5,
    width: int = 1280,
    rank: int = 128,
    segments: int = 16,
    plan: Plan,
    precision: Precision = "float32",
    name: str = "",
    data: str = "",
    progress: Progress | None = None,
) -> MarkovConfig:
    """Train Markov heads and write them to `folder`, with run.json; the same run goes on, or is done.

    target     its logits are what its output rows make of states, without bias, scale or cap.
    features   its `kept_states` at these taps; "final" is one of them.
    token_ids  ascending: those that are drafted.
    length     L, positions of a block. width, rank: see `heads/markov_heads.py`.
    segments   of a batch, SEGMENT states each.
    precision  of matrix products.
    name       what the model is called. data: names the data in run.json.

    Raises an OutpaceError for options out of range, states of other taps, and a folder of another run.
    """
    check_options(taps=taps, length=length, width=width, rank=rank, segments=segments, precision=precision)
    check_data(target, features, len(taps), token_ids)
    ids = np.asarray(token_ids, np.int32)
    config = MarkovConfig(
        length, target.hidden_size, tuple(taps), width, rank, len(ids), target.fingerprint(), name
    )
    settings = {
        "method": "markov_heads", **asdict(config), "data": data, "segments": segments,
        "precision": precision, "token_ids": f"sha256:{hashlib.sha256(ids.tobytes()).hexdigest()}",
        **{option: value for option, value in asdict(plan).items() if option != "checkpoint_s"},
    }  # fmt: skip
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_markov(folder).config
    torch.manual_seed(plan.seed)
    layers = MarkovLayers(config)
    examples = MarkovData(features, config, ids, target.output_rows(), segments=segments)

    def loss(step: int, random: torch.Generator) -> Loss:
        batch = examples.batch(examples.starts(plan.seed, step))
        return markov_loss(layers, batch, examples.output, precision)

    train([layers], loss, plan, checkpoint, progress=progress)
    write_markov(folder, MarkovWeights(config, layers.tensors(), ids))
    checkpoint.note(finished=asdict(config))
    checkpoint.done()
    return config


class MarkovLayers(torch.nn.Module):
    """The layers of `heads/markov_heads.py`, with its names."""

    def __init__(self, config: MarkovConfig) -> None:
        super().__init__()
        c = self.config = config
        self.trunk = torch.nn.Linear((len(c.taps) + 1) * c.hidden_size, c.width)
        self.position = torch.nn.Linear(c.width, c.length * c.hidden_size)
        self.gate = torch.nn.Linear(c.width, c.length * c.rank)
        self.token = torch.nn.Embedding(c.num_tokens + 1, c.rank)
        self.step = torch.nn.Linear(c.rank, c.rank, bias=False)
        self.order = torch.nn.Linear(c.rank, c.num_tokens, bias=False)
        torch.nn.init.normal_(self.token.weight, std=0.5)
        torch.nn.init.zeros_(self.order.weight)  # a block begins without order
        torch.nn.init.ones_(self.gate.bias)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """f32 by name, as a folder has them."""
        return {name: value.detach().float().numpy() for name, value in self.state_dict().items()}

    def forward(self, states: Tensor, numbers: Tensor, output: Tensor) -> Tensor:
        """Scaled states and roots [n, (T + 1) D], tokens before each position i64[n, L] -> logits [n, L, M].

        numbers  places among the drafted tokens, M for others. output: [M, D], rows of the output matrix.
        """
        c = self.config
        units = silu(self.trunk(states))
        ahead = self.position(units).view(-1, c.length, c.hidden_size)
        gates = self.gate(units).view(-1, c.length, c.rank)
        tokens, orders = self.token(numbers), []
        order = torch.zeros_like(tokens[:, 0])
        for position in range(c.length):
            order = torch.tanh(tokens[:, position] + self.step(order))
            orders.append(order)
        ordered: Tensor = linear(ahead, output) + self.order(gates * torch.stack(orders, dim=1))
        return ordered


class MarkovData:
    """Batches of states in a row, with all that Markov heads read and say there.

    features  their states are those of the config's taps, one behind the other.
    roots     f32[V, D], the rows of the output matrix.
    """

    def __init__(
        self,
        features: Features,
        config: MarkovConfig,
        token_ids: NDArray[np.int32],
        roots: NDArray[np.float32],
        *,
        segments: int,
    ) -> None:
        self._segments = Segments(features, token_ids, len(roots), length=config.length, segments=segments)
        self._config = config
        self._roots = roots
        self.output = torch.from_numpy(roots[token_ids])
        self._final = config.taps.index(FINAL) * config.hidden_size

    def starts(self, seed: int, step: int) -> NDArray[np.int64]:
        """Of a step's segments: a function of both numbers alone."""
        return self._segments.starts(seed, step)

    def batch(self, starts: NDArray[np.int64]) -> Batch:
        """SEGMENT states in a row from each of these on: n in all."""
        c, rows = self._config, self._segments.rows(starts)
        roots = rows.tokens[..., :1]
        states = rows.states[:, :SEGMENT].reshape(*roots.shape[:2], len(c.taps), c.hidden_size)
        states = scaled(np.concatenate([states, self._roots[roots]], axis=2))
        return Batch(
            torch.from_numpy(states.reshape(roots.size, -1)),
            torch.from_numpy(rows.numbers[..., :-1].reshape(roots.size, -1)),
            rows.ahead(slice(self._final, self._final + c.hidden_size)),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """For n roots: states f32[n, (T + 1) D], scaled; before i64[n, L], the token before each position, as a
    place among the drafted ones (M: none of them); and what there is to say.
    """

    states: Tensor
    before: Tensor
    ahead: Ahead


def markov_loss(layers: MarkovLayers, batch: Batch, output: Tensor, precision: Precision = "float32") -> Loss:
    """See the module. The model's laws and the loss are in float32, whatever the layers' products are in."""
    with products_in(precision, torch.device("cpu")):
        logits = layers(batch.states, batch.before, output)
    return half_and_half(logits, batch.ahead, output)


def check_options(
    *, taps: Sequence[str], length: int, width: int, rank: int, segments: int, precision: str
) -> None:
    """OutpaceError for options that nothing can be trained with, which hours of states need not show."""
    ranges = {"length": MAX_LENGTH, "width": MAX_SIZE, "rank": MAX_SIZE, "segments": MAX_SIZE}
    given = {"length": length, "width": width, "rank": rank, "segments": segments}
    for option, value in given.items():
        if type(value) is not int or not 1 <= value <= ranges[option]:
            raise OutpaceError(
                f"markov_heads has {option}={value!r}, accepted are whole numbers from 1 to {ranges[option]}"
            )
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
    if FINAL not in taps or len(set(taps)) != len(taps):
        raise OutpaceError(
            f"markov_heads has taps {', '.join(taps)}; accepted are different ones, {FINAL} among them"
        )
