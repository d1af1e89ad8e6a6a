"""The heads of blockwise decoding as training sees them: their layer, and what it is taught.

Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115, section 6. The hidden layer is computed once for all heads
of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.heads.file import Heads
from outpace.train.bases import Base
from outpace.train.loop import Loss

FIRST, FALL = 0.5, 0.6


def falling(num_heads: int) -> tuple[float, ...]:
    """Head 1 has half of the loss, each head 0.6 times the weight of the one before it.

    A head's draft counts only if all before it are kept; and a model that is finetuned with k heads of equal
    weight has 1/k of its gradient left for its own task.
    """
    others = [FALL**number for number in range(num_heads - 1)]
    return FIRST, *((1 - FIRST) * other / sum(others) for other in others)


def equal(num_heads: int) -> tuple[float, ...]:
    """The paper's mean."""
    return (1 / num_heads,) * num_heads


WEIGHTINGS: dict[str, Callable[[int], tuple[float, ...]]] = {"falling": falling, "equal": equal}


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

    def wide(self, states: Tensor) -> Tensor:
        """[n, D] -> [n, L * width]: the hidden layer, which all heads read."""
        return torch.relu(self.hidden(states))

    def narrow(self, states: Tensor, wide: Tensor, head: int) -> Tensor:
        """[n, D], [n, L * width] -> [n, D]: the states of one learned head, numbered from 0."""
        part = slice(head * self.hidden_size, (head + 1) * self.hidden_size)
        return states + torch.nn.functional.linear(wide, self.output.weight[part], self.output.bias[part])

    def forward(self, states: Tensor, head: int) -> Tensor:
        """[n, D] -> [n, D]: the states of one learned head, numbered from 0."""
        return self.narrow(states, self.wide(states), head)


class BlockwiseLoss:
    """The weighted mean of the heads' cross-entropies on a batch, or an unbiased estimate of it.

    weights         of the k heads, head 1 first; 0 for a head that is not trained. Heads that no text of a
                    batch is long enough for are left out of its mean.
    heads_per_step  so many of them are drawn at random for a batch, all if there are no more.
    finetuned       whether the base learns too.
    """

    def __init__(
        self,
        base: Base,
        layer: HeadLayer,
        weights: Sequence[float],
        heads_per_step: int,
        token_ids: NDArray[np.integer] | None,
        finetuned: bool,
    ) -> None:
        self._base = base
        self._layer = layer
        self._weights = weights
        self._count = heads_per_step
        self._finetuned = finetuned
        self._unembed = base.unembedding(token_ids)
        self._number: Tensor | None = None
        if token_ids is not None:
            ids = torch.from_numpy(np.asarray(token_ids, np.int64))
            self._number = torch.full((base.vocab_size,), -100)
            self._number[ids] = torch.arange(len(ids))
            self._number = self._number.to(base.device)
        # Head 1 is the first learned one, or none of them.
        self._identity = layer.output.out_features // layer.hidden_size < len(weights)

    def __call__(self, batch: Any, random: torch.Generator) -> Loss:
        num_heads = len(self._weights)
        with torch.set_grad_enabled(self._finetuned):
            states, ahead = self._base.states(batch, num_heads)
        assert states.shape == (len(states), self._layer.hidden_size), "states are [n, D]"
        assert ahead.shape == (len(states), num_heads), "as many tokens ahead of each state as heads"
        if self._number is not None:
            ahead = torch.where(ahead < 0, ahead, self._number[ahead.clamp(min=0)])
        known = ahead >= 0
        taught = [head for head, some in enumerate(known.any(dim=0).tolist()) if some and self._weights[head]]
        if not taught:  # no text of the batch is as long as the heads look ahead
            return Loss(sum((p.sum() * 0.0 for p in self._layer.parameters()), torch.zeros(())), 0)
        order = torch.randperm(len(taught), generator=random)[: self._count].tolist()
        picked = [taught[number] for number in order]
        wide = self._layer.wide(states) if max(picked) >= self._identity else None
        total, tokens = torch.zeros((), device=states.device), 0
        for head in picked:
            some = known[:, head]
            logits = self._unembed(self._states(states, wide, head)[some])
            loss = torch.nn.functional.cross_entropy(logits.float(), ahead[some, head])
            total = total + self._weights[head] * loss
            tokens += int(some.sum())
        of_all = sum(self._weights[head] for head in taught)
        return Loss(total * (len(taught) / len(picked) / of_all), tokens)

    def _states(self, states: Tensor, wide: Tensor | None, head: int) -> Tensor:
        """[n, D]: what the output matrix reads for a head (0 is head 1)."""
        learned = head - self._identity
        if learned < 0:
            return states
        assert wide is not None, "the hidden layer is there where a learned head is picked"
        return self._layer.narrow(states, wide, learned)
