"""The layers of Medusa heads where the target computes: see `medusa.py` for what they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Tapped, Target
from outpace.core.products import Product
from outpace.heads.markov_heads import silu
from outpace.heads.medusa import METHOD, MedusaWeights, read_medusa
from outpace.heads.proposals import first_heads, fitting_target, of_all_tokens


class MedusaHeads:
    """The heads of a folder, or the first of them; an OutpaceError if they are another model's.

    num_heads  how many; None for all.
    """

    def __init__(self, target: Target, path: str | Path, *, num_heads: int | None = None) -> None:
        heads = read_medusa(path)
        model, config = fitting_target(target, heads, path, METHOD), heads.config
        self.num_drafted = first_heads(target, heads, path, num_heads)
        self.token_ids = heads.token_ids
        self.vocab_size: int = target.vocab_size
        self._layers = ResidualLayers(model, heads, self.num_drafted)
        if config.original_lm_head:
            self._outputs = [model.projection(heads.token_ids).rounded()]
        else:
            scale = np.float32(config.logit_scale)
            self._outputs = [
                model.product(heads.tensors[f"lm_heads.{head}.weight"] * scale).rounded()
                for head in range(self.num_drafted)
            ]

    def logits(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] states after n nodes -> f32[n, L, M]: of head l, the token l + 2 places ahead."""
        ahead = self._layers(states)
        if len(self._outputs) == 1:  # of all heads, or of the only one
            return self._outputs[0](ahead.reshape(-1, ahead.shape[2])).reshape(*ahead.shape[:2], -1)
        return np.stack([output(ahead[:, head]) for head, output in enumerate(self._outputs)], axis=1)

    def whole(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""
        return of_all_tokens(logits, self.token_ids, self.vocab_size)


class ResidualLayers:
    """x = x + silu(W x + b), layer by layer, of the first `count` heads. All first layers are one product."""

    def __init__(self, target: Tapped, heads: MedusaWeights, count: int) -> None:
        c, self._count = heads.config, count
        self._biases = np.zeros((c.num_hidden_layers, count, c.hidden_size), np.float32)
        weights: list[list[NDArray[np.float32]]] = []
        for layer in range(c.num_hidden_layers):
            names = [f"blocks.{head}.layers.{layer}" for head in range(count)]
            weights.append([heads.tensors[f"{name}.weight"] for name in names])
            if c.medusa_fc_bias:
                self._biases[layer] = [heads.tensors[f"{name}.bias"] for name in names]
        self._first = target.product(np.concatenate(weights[0])).rounded()
        self._others: list[list[Product]] = [
            [target.product(weight).rounded() for weight in layer] for layer in weights[1:]
        ]

    def __call__(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """f32[n, D] -> f32[n, count, D]: what the output matrix of each head reads."""
        wide = self._first(states).reshape(len(states), self._count, -1)
        ahead = states[:, None] + silu(wide + self._biases[0])
        for products, biases in zip(self._others, self._biases[1:], strict=True):
            # Each head's second layer reads what its own first has made.
            wide = np.stack([product(ahead[:, head]) for head, product in enumerate(products)], axis=1)
            ahead = ahead + silu(wide + biases)
        return ahead
