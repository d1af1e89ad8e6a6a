"""Proposal heads on a target: from one hidden state, the logits of the tokens several places ahead.

Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115: one feed-forward layer over the decoder's output, as wide
as all heads together, gives every head a state of its own, to which the decoder's output is added; the
model's own output matrix makes logits of each.

    u = relu(x W1 + b1)   [L W]        s = x + u W2 + b2   [L, D]        logits = unembed(s)   [L, M]
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Tapped, Target
from outpace.core.errors import OutpaceError
from outpace.heads.file import METHOD, Heads, read_heads
from outpace.heads.folder import Tensors
from outpace.heads.hydra import HydraWeights
from outpace.heads.medusa import MedusaWeights

FINAL = "final"


class ProposalHeads:
    """The heads of a folder, or as many of them as are wanted, lying where the target computes.

    num_heads  counts head 1, which is the model's own; None for all.
    """

    def __init__(self, target: Target, path: str | Path, *, num_heads: int | None = None) -> None:
        heads = read_heads(path)
        model = fitting_target(target, heads, path)
        config = heads.config
        if num_heads is not None and not 2 <= num_heads <= config.num_heads:
            raise OutpaceError(
                f"the heads in {path} are {config.num_heads}, head 1 included; accepted are 2 to "
                f"{config.num_heads}, not {num_heads}"
            )
        # Of the learned heads the first may be head 1, whose proposal the target itself has made already.
        self.num_drafted = (num_heads or config.num_heads) - 1
        self._layer = HeadLayer(
            model, heads.tensors, first=config.num_learned - config.num_heads + 1, count=self.num_drafted
        ).rounded()
        self.token_ids = heads.token_ids
        self.vocab_size: int = target.vocab_size
        self._unembed = model.projection(heads.token_ids).rounded()

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] states after n nodes -> f32[n, L, M]: of head l, the token l + 2 places ahead."""
        ahead = self._layer(states)
        return self._unembed(ahead.reshape(-1, ahead.shape[2])).reshape(*ahead.shape[:2], -1)

    def whole(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""
        return of_all_tokens(logits, self.token_ids, self.vocab_size)


class FirstHead:
    """Head 1 of heads that were trained with one: logits that take the place of the target's own."""

    def __init__(self, target: Target, path: str | Path) -> None:
        heads = read_heads(path)
        model = fitting_target(target, heads, path)
        if heads.config.first != "learned":
            raise OutpaceError(f"the heads in {path} have no head 1 of their own, accepted is first=learned")
        self._layer = HeadLayer(model, heads.tensors, first=0, count=1)
        self._unembed = model.projection()

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, V]."""
        return self._unembed(self._layer(states)[:, 0])


class HeadLayer:
    """The feed-forward layer of `count` learned heads from number `first` on.

    tensors  as a folder has them (`file.py`).
    """

    def __init__(self, target: Tapped, tensors: Tensors, *, first: int, count: int) -> None:
        width = tensors["hidden.weight"].shape[1]
        used = slice(first * width, (first + count) * width)
        self._count = count
        self._hidden = target.product(tensors["hidden.weight"])
        self._hidden_bias = tensors["hidden.bias"]
        self._output = target.product(np.ascontiguousarray(tensors["output.weight"][used]))
        self._output_bias = tensors["output.bias"][used]

    def rounded(self) -> Self:
        """It draws drafts alone from now on (see `core/products.py`)."""
        self._hidden, self._output = self._hidden.rounded(), self._output.rounded()
        return self

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, count, D]: what the output matrix reads for each head."""
        wide = self._hidden(states) + self._hidden_bias
        np.maximum(wide, 0.0, out=wide)
        ahead = (self._output(wide) + self._output_bias).reshape(len(states), self._count, -1)
        ahead += states[:, None]
        return ahead


def of_all_tokens(
    logits: NDArray[np.float32], token_ids: NDArray[np.integer] | None, vocab_size: int
) -> NDArray[np.float32]:
    """[F, M] of these tokens (None: of all) -> [F, V]: -inf for the others."""
    if token_ids is None:
        return logits
    every = np.full((len(logits), vocab_size), -np.inf, np.float32)
    every[:, token_ids] = logits
    return every


def fitting_target(
    target: Target, heads: Heads | MedusaWeights | HydraWeights, path: str | Path, method: str = METHOD
) -> Tapped:
    """The target, if these heads are its own, with its states tapped; else an OutpaceError."""
    config, model = heads.config, tapped(target, method)
    if config.target != model.fingerprint() or config.hidden_size != model.hidden_size:
        raise OutpaceError(
            f"the heads in {path} were trained on another model ({config.model or 'of no name'}); accepted "
            f"are heads of this one, as `outpace train {method}` makes them"
        )
    if heads.token_ids is not None and heads.token_ids[-1] >= target.vocab_size:
        raise OutpaceError(
            f"the heads in {path} draft the token {heads.token_ids[-1]}, accepted are those of the model's "
            f"vocabulary, 0 to {target.vocab_size - 1}"
        )
    model.tap(FINAL)
    return model


def first_heads(
    target: Target, heads: MedusaWeights | HydraWeights, path: str | Path, num_heads: int | None
) -> int:
    """How many of the heads draft, `num_heads` or all; OutpaceError if there are fewer, or other tokens."""
    config = heads.config
    if config.vocab_size != target.vocab_size:
        raise OutpaceError(
            f"the heads in {path} are for a vocabulary of {config.vocab_size} tokens, accepted are "
            f"{target.vocab_size}"
        )
    if num_heads is not None and not 1 <= num_heads <= config.num_heads:
        raise OutpaceError(
            f"the heads in {path} are {config.num_heads}; accepted are 1 to {config.num_heads}, not "
            f"{num_heads}"
        )
    return num_heads or config.num_heads


def tapped(target: Target, reader: str) -> Tapped:
    """The target, if it shows the states that heads read; else an OutpaceError that names who reads them."""
    if not isinstance(target, Tapped):
        raise OutpaceError(
            f"{reader} reads hidden states and the target {type(target).__name__} shows none, accepted are "
            "native and transformers targets"
        )
    return target
