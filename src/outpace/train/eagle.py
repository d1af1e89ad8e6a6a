"""Training of an EAGLE-3 layer (`heads/eagle.py`) on the states of a frozen model.

Li et al. 2025, "EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test",
arXiv:2503.01840. Whole texts are read, prompts too, as drafting reads them; the layer learns the tokens of
answers. What step s of a draft has to say is the model's own law there, and its token:

    loss = mean of DECAY^(s-1) (CE(p_s, law) + CE(p_s, token)) / 2

over the drafted tokens alone. There is no loss on features, as in the paper.
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

from outpace.core.contracts import Embedding
from outpace.core.errors import OutpaceError
from outpace.heads.eagle import METHOD, EagleConfig, EagleWeights, read_eagle, write_eagle
from outpace.heads.embeddings import embedded
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.data import by_length
from outpace.train.eagle_layers import EagleLayers
from outpace.train.loop import Loss, Plan, train
from outpace.train.pieces import PieceByPiece
from outpace.train.precision import Precision, products_in
from outpace.train.texts import Texts

DECAY = 0.8  # of a step's weight: what comes first is read most often


def train_eagle(
    target: Embedding,
    texts: Texts,
    folder: str | Path,
    config: EagleConfig,
    token_ids: NDArray[np.integer],
    *,
    unrolled: int = 4,
    batch: int = 2048,
    plan: Plan,
    precision: Precision = "float32",
    data: str = "",
    progress: Progress | None = None,
) -> EagleConfig:
    """Train an EAGLE-3 layer and write it to `folder`, with run.json; the same run goes on, or is done.

    target     its logits are what its output rows make of states, without bias, scale or cap.
    token_ids  ascending: those that are drafted, as many as the config says.
    unrolled   steps that the layer drafts in training.
    batch      tokens of a batch, with padding.
    precision  of matrix products. data: names the data in run.json.

    Raises an OutpaceError for states of another width, and for a folder of another run.
    """
    wide = (len(config.taps) + 1) * config.hidden_size
    if texts.features.states.shape[1] != wide:
        raise OutpaceError(f"the states are {texts.features.states.shape[1]} wide, accepted are {wide}")
    ids = np.asarray(token_ids, np.int32)
    settings = {
        "method": METHOD, **asdict(config), "data": data, "unrolled": unrolled, "batch": batch,
        "precision": precision, "token_ids": f"sha256:{hashlib.sha256(ids.tobytes()).hexdigest()}",
        **{option: value for option, value in asdict(plan).items() if option != "checkpoint_s"},
    }  # fmt: skip
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_eagle(folder).config
    torch.manual_seed(plan.seed)
    examples = EagleData(target, texts, ids, len(config.taps))
    layers = EagleLayers(config)
    begin_near_the_model(layers, examples)
    numbers = by_length(np.diff(texts.features.ends, prepend=0).tolist(), batch, plan.seed)

    def loss(step: int, random: torch.Generator) -> Loss:
        return eagle_loss(layers, examples.batch(numbers(step)), examples.output, unrolled, precision)

    train([layers], loss, plan, checkpoint, progress=progress)
    write_eagle(folder, EagleWeights(config, layers.tensors(), ids))
    checkpoint.note(finished=asdict(config))
    checkpoint.done()
    return config


@dataclass(frozen=True, slots=True)
class Batch:
    """B texts of at most N tokens, padded behind their ends.

    embeddings  f32[B, N, D], states f32[B, N, T * D]: of each token, and what it was chosen from.
    final       f32[B, N, D], what the token after each was chosen from.
    labels      i64[B, N], that token's place among the drafted ones; -1 if it is none, or no answer's.
    """

    embeddings: Tensor
    states: Tensor
    final: Tensor
    labels: Tensor


class EagleData:
    """Batches of texts. output: f32[M, D], the output matrix's rows of the drafted tokens."""

    def __init__(self, target: Embedding, texts: Texts, token_ids: NDArray[np.int32], num_taps: int) -> None:
        self.num_texts = len(texts.firsts)
        self._texts = texts
        self._width = num_taps * target.hidden_size
        self.output = torch.from_numpy(target.output_rows(token_ids))
        self._place = np.full(target.vocab_size, -1, np.int64)
        self._place[token_ids] = np.arange(len(token_ids))
        used, self._number = np.unique(texts.features.tokens, return_inverse=True)
        if used[0] < 0 or used[-1] >= target.vocab_size:
            raise OutpaceError(
                f"the texts have the token ids {used[0]} to {used[-1]}, accepted are 0 to "
                f"{target.vocab_size - 1}"
            )
        self._embeddings = embedded(target, METHOD).input_rows(used)

    def batch(self, numbers: Sequence[int]) -> Batch:
        """These texts."""
        tokens, text = self._texts.features.tokens, self._texts.padded(numbers)
        labels = np.full(text.places.shape, -1, np.int64)
        labels[:, :-1] = np.where(text.answers[:, 1:], self._place[tokens[text.places[:, 1:]]], -1)
        final = np.zeros((*text.places.shape, text.states.shape[2] - self._width), np.float32)
        final[:, :-1] = text.states[:, 1:, self._width :]
        return Batch(
            torch.from_numpy(self._embeddings[self._number[text.places]]),
            torch.from_numpy(text.states[..., : self._width]),
            torch.from_numpy(final),
            torch.from_numpy(labels),
        )


def eagle_loss(
    layers: EagleLayers, batch: Batch, output: Tensor, unrolled: int, precision: Precision = "float32"
) -> Loss:
    """See the module. The model's laws and the loss are in float32, whatever the layer's products are in."""
    with products_in(precision, torch.device("cpu")):
        steps = layers.unrolled(batch.embeddings, batch.states, unrolled)
    shares = [DECAY**step for step in range(unrolled)]
    known, weights, count = batch.labels >= 0, list[Tensor](), 0
    for step, share in enumerate(shares):
        # A path that began before the text, or with a token that is not drafted, is none.
        if step:
            before = torch.zeros_like(known)
            before[:, 1:] = known[:, :-1]
            known = known & before
        size = int(known.sum())
        weights.append(known.flatten() * (share / sum(shares) / max(1, size)))
        count += size
    total = PieceByPiece.apply(  # type: ignore[no-untyped-call]
        layers.lm_head.weight,
        output,
        batch.final.flatten(0, 1),
        batch.labels.flatten(),
        torch.stack(weights),
        precision,
        *(outputs.flatten(0, 1) for outputs in steps),
    )
    return Loss(total, count)


def begin_near_the_model(layers: EagleLayers, examples: EagleData) -> None:
    """Before the first step the layer passes the deepest tap on, to the model's own output matrix.

    Its columns are scaled to how far each number there tells the final state, by least squares: with states
    of another scale the layer would be very sure, and wrong.
    """
    width = layers.config.hidden_size
    batch = examples.batch(range(min(8, examples.num_texts)))
    known = batch.final.abs().sum(-1) > 0
    with torch.no_grad():
        layers.fc.weight.mul_(0.1)
        layers.fc.weight[:, -width:] += torch.eye(width)
        read, final = layers.unrolled(batch.embeddings, batch.states, 1)[0][known], batch.final[known]
        scale = (read * final).mean(0) / read.square().mean(0)
        layers.lm_head.weight.copy_(examples.output * scale)
