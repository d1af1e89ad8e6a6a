"""The layers of Markov heads where the target computes: see `markov_heads.py` for what they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Embedding, Target
from outpace.core.errors import OutpaceError
from outpace.core.steps import RowScores
from outpace.heads.markov_heads import read_markov, scaled, silu

CANDIDATES = 64  # tokens of a position that the order may bring to the front,
NEAR = 7.0  # which are no further than this below the best
MOST_ROOTS = 4096  # whose rows of the output matrix are at hand: a few megabytes


class MarkovPass:
    """The heads of a folder; an OutpaceError if they are another model's.

    length     L, positions of a block.
    token_ids  i32[M], the tokens that are drafted. orders: O, f32[M, r].
    """

    def __init__(self, target: Target, path: str | Path) -> None:
        heads = read_markov(path)
        config, tensors, model = heads.config, heads.tensors, embedding(target)
        if config.target != model.fingerprint() or config.hidden_size != model.hidden_size:
            raise OutpaceError(
                f"the heads in {path} were trained on another model ({config.model or 'of no name'}); "
                "accepted are heads of this one, as `outpace train markov_heads` makes them"
            )
        if heads.token_ids[-1] >= target.vocab_size:
            raise OutpaceError(
                f"the heads in {path} draft the token {heads.token_ids[-1]}, accepted are those of "
                f"the model's vocabulary, 0 to {target.vocab_size - 1}"
            )
        model.tap(*config.taps)
        self._path = path
        self.length, self.token_ids = config.length, heads.token_ids
        self.vocab_size: int = target.vocab_size
        self._config = config
        self._output_rows = model.output_rows
        self._unembed = model.projection(heads.token_ids).rounded()
        self._trunk = model.product(tensors["trunk.weight"]).rounded()
        # Positions and gates read the same: one product of both.
        both = np.concatenate([tensors["position.weight"], tensors["gate.weight"]])
        self._ahead = model.product(both).rounded()
        self._ahead_bias = np.concatenate([tensors["position.bias"], tensors["gate.bias"]])
        self._trunk_bias = tensors["trunk.bias"]
        self._tokens, self._step = tensors["token.weight"], tensors["step.weight"]
        self.orders = tensors["order.weight"]
        self._reorder = model.product(self.orders).rounded()
        self._roots: dict[int, NDArray[np.float32]] = {}
        self._numbers = np.full(target.vocab_size, config.num_tokens, np.int64)
        self._numbers[heads.token_ids] = np.arange(config.num_tokens)

    def states(self, scores: RowScores, node: int) -> NDArray[np.float32]:
        """f32[T, D]: what the taps have of a node."""
        return np.stack([scores.hidden(tap)[node] for tap in self._config.taps])

    def __call__(self, states: NDArray[np.float32], roots: Sequence[int]) -> list[Block]:
        """f32[n, T, D], the states that n roots were chosen from -> the block behind each root."""
        c, n = self._config, len(roots)
        embedded = np.stack([self._root(root) for root in roots])
        read = scaled(np.concatenate([states, embedded[:, None]], axis=1)).reshape(n, -1)
        units = silu(self._trunk(read) + self._trunk_bias)
        both, width = self._ahead(units) + self._ahead_bias, c.length * c.hidden_size
        ahead, gates = both[:, :width], both[:, width:].reshape(n, c.length, c.rank)
        logits = self._unembed(ahead.reshape(n * c.length, c.hidden_size)).reshape(n, c.length, -1)
        highest = logits.max(axis=2)
        if np.isnan(highest).any():
            raise OutpaceError(
                f"the heads in {self._path} give scores that are no numbers: their weights may be damaged"
            )
        return [Block(self, *row) for row in zip(logits, highest, gates, strict=True)]

    def _root(self, token: int) -> NDArray[np.float32]:
        """f32[D], its row of the output matrix."""
        row = self._roots.get(token)
        if row is None:
            if len(self._roots) == MOST_ROOTS:
                self._roots.clear()
            row = self._roots[token] = self._output_rows(np.array([token]))[0]
        return row

    def follow(self, order: NDArray[np.float32] | None, token: int) -> NDArray[np.float32]:
        """m f32[r] behind a token, from that before it; None stands for the one before the root."""
        embedded: NDArray[np.float32] = self._tokens[self._numbers[token]]
        if order is not None:
            embedded = embedded + times(self._step, order)
        return np.tanh(embedded)

    def reorder(self, order: NDArray[np.float32]) -> NDArray[np.float32]:
        """O (g * m), f32[M], of f32[r]."""
        return self._reorder(order[None])[0]

    def whole(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""
        every = np.full((len(logits), self.vocab_size), -np.inf, np.float32)
        every[:, self.token_ids] = logits
        return every


def times(matrix: NDArray[np.float32], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """f32[n, r] and f32[r] -> f32[n]. Not by BLAS, whose threads go on spinning where the model's run."""
    product: NDArray[np.float32] = np.einsum("nr,r->n", matrix, vector)
    return product


def embedding(target: Target) -> Embedding:
    """The target, if it shows its states and its output matrix; else an OutpaceError."""
    if not isinstance(target, Embedding):
        raise OutpaceError(
            f"markov_heads reads hidden states and output rows, the target {type(target).__name__} shows "
            "none; accepted are native and transformers targets"
        )
    return target


class Block:
    """What one pass says of the tokens behind a root.

    logits   f32[L, M], as if no token of the block were known, L: levels. gates: f32[L, r].
    highest  f32[L], the largest logit of each position.
    """

    __slots__ = ("_highest", "_pass", "_some", "gates", "levels", "logits")

    def __init__(
        self,
        made_by: MarkovPass,
        logits: NDArray[np.float32],
        highest: NDArray[np.float32],
        gates: NDArray[np.float32],
    ) -> None:
        self._pass, self.logits, self._highest, self.gates = made_by, logits, highest, gates
        self.levels = len(logits)
        self._some: dict[int, tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]] = {}

    def follow(self, order: NDArray[np.float32] | None, token: int, level: int) -> NDArray[np.float32]:
        """m f32[r] behind a token, whatever its depth."""
        return self._pass.follow(order, token)

    def law(self, position: int, order: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits f32[M] at a position, 0 the first below the root, behind the token with this order."""
        return self.logits[position] + self._pass.reorder(self.gates[position] * order)

    def likely(
        self, position: int, order: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(places i64[C] of tokens among the drafted ones, their logits f32[C]): those that may be likely."""
        if position not in self._some:
            logits = self.logits[position]
            # A partition of all takes three times as long.
            some = np.flatnonzero(logits >= self._highest[position] - NEAR)
            if len(some) > CANDIDATES:
                some = some[np.argpartition(logits[some], -CANDIDATES)[-CANDIDATES:]]
            self._some[position] = some, logits[some], self._pass.orders[some] * self.gates[position]
        some, logits, orders = self._some[position]
        return some, logits + times(orders, order)
