"""States in a row, and what heads on a frozen model have to say of the tokens behind each.

Position i behind a root has the token of the text, and the model's own law, over the drafted tokens alone:

    loss = mean of DECAY^(i-1) (CE(p_i, law) + CE(p_i, token)) / 2

over the positions that a draft can reach: the tokens up to there are among the drafted ones. States that
follow one another share the laws, so a batch is made of segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from outpace.core.contracts import Tapped
from outpace.core.errors import OutpaceError
from outpace.train.features import STATES, Features
from outpace.train.loop import Loss

DECAY = 0.8  # of a position's weight: what comes first is read most often
SEGMENT = 64  # states in a row, which share the laws of what follows them


class Segments:
    """Rows of states of a text, with the tokens that follow.

    token_ids  ascending: the M that are drafted. vocab_size: V.
    length     L, positions behind each root. segments: of a batch, SEGMENT roots each.
    """

    def __init__(
        self,
        features: Features,
        token_ids: NDArray[np.integer],
        vocab_size: int,
        *,
        length: int,
        segments: int,
    ) -> None:
        self._features, self._length, self._segments = features, length, segments
        self._count = len(token_ids)
        self._number = np.full(vocab_size, self._count, np.int64)
        self._number[token_ids] = np.arange(self._count)
        self._ends = np.repeat(features.ends, np.diff(features.ends, prepend=0))

    def starts(self, seed: int, step: int) -> NDArray[np.int64]:
        """Of a step's segments: a function of both numbers alone."""
        most = max(1, len(self._features.tokens) - SEGMENT)
        return np.random.default_rng((seed, step)).integers(0, most, self._segments)

    def rows(self, starts: NDArray[np.int64]) -> Rows:
        """SEGMENT states in a row from each of these on, and L more; OutpaceError for those that are none."""
        texts = self._features
        span = np.minimum(starts[:, None] + np.arange(SEGMENT + self._length), len(texts.tokens) - 1)
        read = texts.states[span.reshape(-1)].astype(np.float32).reshape(*span.shape, -1)
        if not np.isfinite(read).all():
            raise OutpaceError(f"{STATES} holds numbers that are none; remove its folder to begin anew")
        roots = span[:, :SEGMENT]
        places = roots[..., None] + np.arange(self._length + 1)
        inside = places < self._ends[roots][..., None]
        tokens = texts.tokens[np.minimum(places, len(texts.tokens) - 1)]
        numbers = self._number[tokens]
        drafted = inside[..., 1:] & (numbers[..., 1:] < self._count)
        return Rows(read, tokens, numbers, np.logical_and.accumulate(drafted, axis=2))


@dataclass(frozen=True, slots=True)
class Rows:
    """S segments: states f32[S, SEGMENT + L, W]; behind each of their SEGMENT roots, and of it:

    tokens i32[S, SEGMENT, L + 1]; numbers, i64 like these, places among the drafted tokens (M: none of them);
    known bool[S, SEGMENT, L]: positions that a draft can reach, none behind the end of a text.
    """

    states: NDArray[np.float32]
    tokens: NDArray[np.int32]
    numbers: NDArray[np.int64]
    known: NDArray[np.bool_]

    def ahead(self, final: slice) -> Ahead:
        """What there is to say. final: where a state has those at "final"."""
        length = self.known.shape[2]
        return Ahead(
            torch.from_numpy(self.numbers[..., 1:].reshape(-1, length)),
            torch.from_numpy(self.known.reshape(-1, length)),
            torch.from_numpy(self.states[..., final]),
        )


@dataclass(frozen=True, slots=True)
class Ahead:
    """Behind n roots: labels i64[n, L], places among the drafted tokens, which hold where known bool[n, L].

    final  f32[S, SEGMENT + L, D]: states at "final" of the roots and of what follows them.
    """

    labels: Tensor
    known: Tensor
    final: Tensor

    def laws(self, output: Tensor) -> Tensor:
        """The model's own, f32[n, L, M]; output f32[M, D], the rows of the drafted tokens."""
        length = self.labels.shape[1]
        laws = linear(self.final, output).float().softmax(-1)
        ahead = torch.stack([laws[:, i + 1 : i + 1 + SEGMENT] for i in range(length)], dim=2)
        return ahead.reshape(-1, length, laws.shape[2])


class HalfAndHalf(torch.autograd.Function):
    """sum of w (CE(p, law) + CE(p, token)) / 2 over positions, p the softmax of logits [n, L, M].

    Its gradient, w (p - (law + token) / 2), is written at once: by autograd's steps it takes four times as
    long, most of it memory.
    """

    @staticmethod
    def forward(context: Any, logits: Tensor, laws: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """f32[]; laws f32[n, L, M], labels i64[n, L] in 0 to M - 1, weights f32[n, L]."""
        wide, at = logits.float(), labels[..., None]
        most = wide.amax(-1, keepdim=True)
        p = (wide - most).exp_()
        total = p.sum(-1, keepdim=True)
        said, law = wide.gather(-1, at)[..., 0], torch.linalg.vecdot(wide, laws)
        loss = ((most + total.log())[..., 0] - (said + law) / 2) * weights
        p.div_(total).sub_(laws, alpha=0.5).scatter_add_(-1, at, torch.full_like(p[..., :1], -0.5))
        context.save_for_backward(p.mul_(weights[..., None]).to(logits.dtype))
        return loss.sum()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """That of the logits."""
        (gradient,) = context.saved_tensors
        return gradient * gradients[0], None, None, None


def half_and_half(logits: Tensor, ahead: Ahead, output: Tensor) -> Loss:
    """See the module; logits [n, L, M], output f32[M, D]. Laws and loss are in float32."""
    with torch.no_grad():
        laws = ahead.laws(output)
    weights = ahead.known * DECAY ** torch.arange(logits.shape[1])
    labels = ahead.labels.where(ahead.known, 0)
    total = HalfAndHalf.apply(logits, laws, labels, weights / weights.sum().clamp(min=1.0))  # type: ignore[no-untyped-call]
    return Loss(total, int(ahead.known.sum()))


def check_data(target: Tapped, features: Features, num_taps: int, token_ids: NDArray[np.integer]) -> None:
    """OutpaceError for states of other taps, and for tokens that the model does not have."""
    if features.states.shape[1] != num_taps * target.hidden_size:
        raise OutpaceError(
            f"the states are {features.states.shape[1]} wide, accepted are those of {num_taps} taps of "
            f"{target.hidden_size}"
        )
    ids = np.asarray(token_ids)
    if not len(ids) or ids[0] < 0 or ids[-1] >= target.vocab_size or (ids[1:] <= ids[:-1]).any():
        raise OutpaceError(f"token_ids are not one or more ascending ids of 0 to {target.vocab_size - 1}")
    wrong = features.tokens[(features.tokens < 0) | (features.tokens >= target.vocab_size)]
    if len(wrong):
        raise OutpaceError(
            f"the texts have the token id {wrong[0]}, accepted are 0 to {target.vocab_size - 1}"
        )
