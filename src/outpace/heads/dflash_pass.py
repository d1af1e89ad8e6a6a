"""DFlash's layers where they run, beside their target: see `dflash.py` for what they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.layers import Floats
from outpace.core.products import Product
from outpace.heads.decoder_layer import layer_spec, normed
from outpace.heads.dflash import EMBEDDING, GATE, JOINT, METHOD, OUTPUT, layer_name, read_dflash
from outpace.heads.embeddings import Embeddings, embedded
from outpace.heads.proposals import of_all_tokens

CANDIDATES = 64  # tokens of a slot that a tree may take,
NEAR = 7.0  # which are no further than this below the best
Order = tuple[Floats, Floats]
"""What a slot knows of the path to it: (the state s' behind it, m), f32[r] both."""


class DFlashPass:
    """The layers of a folder; an OutpaceError if they are another model's.

    length     how many tokens a block drafts. token_ids: i32[M], those that are drafted; None for all.
    max_nodes  the most tokens of a call. Each layer has rows of the same numbers, with the same tokens.
    """

    def __init__(self, target: Target, path: str | Path) -> None:
        heads, model = read_dflash(path), embedded(target, METHOD)
        config, tensors = heads.config, heads.tensors
        if config.target != model.fingerprint() or config.hidden_size != model.hidden_size:
            raise OutpaceError(
                f"the heads in {path} were trained on another model ({config.model or 'of no name'}); "
                "accepted are heads of this one, as `outpace heads import` takes them in"
            )
        if config.vocab_size != target.vocab_size:
            raise OutpaceError(
                f"the heads in {path} are for a vocabulary of {config.vocab_size} tokens, accepted are "
                f"{target.vocab_size}"
            )
        if heads.token_ids is not None and heads.token_ids[-1] >= target.vocab_size:
            raise OutpaceError(
                f"the heads in {path} draft the token {heads.token_ids[-1]}, accepted are those of "
                f"the model's vocabulary, 0 to {target.vocab_size - 1}"
            )
        model.tap(*config.taps)
        self.config, self.token_ids, self.length = config, heads.token_ids, config.length
        self._path = path
        self._tensors = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 1}
        room = target.context_length + config.block_size
        self._layers = [
            model.layer(
                layer_spec(
                    config, tensors, layer_name(n), config.hidden_size, context_length=room, window=window
                )
            )
            for n, window in enumerate(config.windows)
        ]
        product = self._layers[0].product
        self.max_nodes = self._layers[0].max_nodes
        self._fc = product(tensors["fc.weight"])
        self._unembed: Product = (
            product(tensors["lm_head.weight"]) if config.num_tokens else model.projection().rounded()
        )
        self._embedded = Embeddings(model.input_rows)
        self._vocab_size = target.vocab_size
        # Of the Markov head, where there is one.
        self._before = tensors.get(EMBEDDING)
        self._after = product(tensors[OUTPUT]) if EMBEDDING in tensors else None
        stem = {"gated": GATE, "rnn": JOINT}.get(config.markov)
        self._inner = product(tensors[f"{stem}.weight"]) if stem else None
        self._inner_bias = tensors.get(f"{stem}.bias")

    def features(self, states: Floats) -> Floats:
        """f32[n, T * D], states of tokens at the taps -> c f32[n, D]."""
        return self._normed("hidden_norm.weight", self._fc(np.ascontiguousarray(states)))

    def open(self) -> int:
        """A row without tokens, in all layers."""
        [number] = {layer.open() for layer in self._layers}
        return number

    def free(self, row: int) -> None:
        """Give a row back."""
        for layer in self._layers:
            layer.free(row)

    def score(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        parents: Sequence[int],
        read: Floats,
        residuals: Floats,
    ) -> None:
        """Committed tokens, to be kept: all layers make keys and values of the same c, which is `read`."""
        for layer in self._layers:
            layer.score(rows, starts, parents, read, residuals)

    def keep(self, row: int, path: Iterable[int]) -> None:
        """Commit the first node of the row's last call, and a path behind it."""
        path = [*path]
        for layer in self._layers:
            layer.keep(row, path)

    def __call__(
        self, rows: Sequence[int], contexts: Sequence[Floats], roots: Sequence[int], levels: Sequence[int]
    ) -> list[Block]:
        """The block behind each root, of so many of its first drafted tokens.

        contexts  c of the tokens before the root that the row does not hold yet; they are committed.

        CacheFull, and nothing is committed, if there is no memory left for these rows.
        """
        c, count = self.config, len(rows)
        leads = [len(one) for one in contexts]
        starts = np.cumsum([0, *(lead + c.block_size for lead in leads)]).tolist()
        parents = [parent for lead in leads for parent in range(-1, lead + c.block_size - 1)]
        ends = starts[1:]
        own = np.concatenate([np.arange(end - c.block_size, end) for end in ends])
        read = np.zeros((starts[-1], c.hidden_size), np.float32)
        residuals = np.zeros_like(read)
        for start, lead, context in zip(starts, leads, contexts, strict=False):
            read[start : start + lead] = context
        masks = [c.mask_token_id] * (c.block_size - 1)
        x = self._embedded([token for root in roots for token in (root, *masks)])
        for number, layer in enumerate(self._layers):
            read[own] = self._normed(f"{layer_name(number)}input_layernorm.weight", x)
            residuals[own] = x
            x = layer.score(rows, starts, parents, read, residuals, whole=not c.causal[number])[own]
        for row, lead in zip(rows, leads, strict=True):
            if lead:
                self.keep(row, range(1, lead))
        hidden = self._normed("norm.weight", x).reshape(count, c.block_size, -1)
        first = c.block_size - c.length
        some = [slots[first : first + level] for slots, level in zip(hidden, levels, strict=True)]
        logits = self._unembed(np.concatenate(some))
        if np.isnan(logits.max()):
            raise OutpaceError(
                f"the heads in {self._path} give scores that are no numbers: their weights may be damaged"
            )
        cuts = np.cumsum(levels)[:-1]
        return [Block(self, *one) for one in zip(some, np.split(logits, cuts), strict=True)]

    def follow(self, hidden: Floats, order: Order | None, token: int) -> Order | None:
        """What a slot of the state f32[D] knows behind a token, from what the one before it knew."""
        if self._before is None:
            return None
        before = self._before[token]
        if self.config.markov == "vanilla":
            return before, before
        assert self._inner is not None and self._inner_bias is not None, "all of a Markov head"
        if self.config.markov == "gated":
            gate = self._inner(np.concatenate([hidden, before])[None])[0] + self._inner_bias
            return before, sigmoid(gate) * before
        state = np.zeros_like(before) if order is None else order[0]
        joint = self._inner(np.concatenate([state, before, hidden])[None])[0] + self._inner_bias
        gate, update, out = np.split(joint, 3)
        opened = sigmoid(gate)
        return opened * state + (1 - opened) * np.tanh(update), np.tanh(out)

    def ordered(self, logits: Floats, order: Order | None) -> Floats:
        """f32[M] of a slot, told what it knows of the path to it."""
        return logits if order is None or self._after is None else logits + self._after(order[1][None])[0]

    def whole(self, logits: Floats) -> Floats:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""
        return of_all_tokens(logits, self.token_ids, self._vocab_size)

    def _normed(self, name: str, x: Floats) -> Floats:
        return normed(x, self._tensors[name], self.config.rms_eps)


class Block:
    """What one pass says of the tokens behind a root, of its first levels.

    hidden  f32[levels, D]. logits: f32[levels, M], as if no token of the block were known.
    """

    __slots__ = ("_pass", "_some", "hidden", "levels", "logits")

    def __init__(self, made_by: DFlashPass, hidden: Floats, logits: Floats) -> None:
        self._pass, self.hidden, self.logits = made_by, hidden, logits
        self.levels = len(logits)
        self._some: dict[int, tuple[NDArray[np.int64], Floats]] = {}

    def follow(self, order: Any, token: int, level: int) -> Any:
        """What the tokens behind one of this depth are drafted from, with what that one was drafted from."""
        return self._pass.follow(self.hidden[level], order, token)

    def law(self, level: int, order: Any) -> Floats:
        """Logits f32[M] behind a token of this depth."""
        return self._pass.ordered(self.logits[level], order)

    def likely(self, level: int, order: Any) -> tuple[NDArray[np.int64], Floats]:
        """(places i64[C] of tokens among the drafted ones, their logits f32[C]): those that may be likely."""
        if order is not None:
            return likely(self.law(level, order))
        if level not in self._some:  # the same behind all tokens of this depth
            self._some[level] = likely(self.logits[level])
        return self._some[level]


def likely(logits: Floats) -> tuple[NDArray[np.int64], Floats]:
    """(places, logits) of the best."""
    some = np.flatnonzero(logits >= logits.max() - NEAR)
    if len(some) > CANDIDATES:
        some = some[np.argpartition(logits[some], -CANDIDATES)[-CANDIDATES:]]
    return some, logits[some]


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # what is far below zero is nothing
        return np.asarray(1 / (1 + np.exp(-x)), np.float32)
