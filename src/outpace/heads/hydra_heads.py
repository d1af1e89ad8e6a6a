"""The layers of Hydra heads where the target computes: see `hydra.py` for what they are.

The first layer of a head is a sum of products, one for each thing that it reads. A product of a token with
the weights of all heads that read it is made once, and whatever follows the token goes on from the sum: a
level of a tree costs one product and the output matrix, however deep it is.

    read(t_0)             f32[H, D]          W_h of x' and e'(t_0), and b_h, for every head
    read(t_0 .. t_d)      f32[H - d, D]      that of the parent without its first head, and W_h e'(t_d)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from outpace.core.contracts import Target
from outpace.core.layers import Floats
from outpace.core.products import Product
from outpace.heads.embeddings import Embeddings, embedded
from outpace.heads.hydra import METHOD, read_hydra
from outpace.heads.markov_heads import scaled, silu
from outpace.heads.proposals import first_heads, fitting_target, of_all_tokens


class HydraHeads:
    """The heads of a folder, or the first of them; an OutpaceError if they are another model's.

    num_heads  how many; None for all.
    """

    def __init__(self, target: Target, path: str | Path, *, num_heads: int | None = None) -> None:
        heads, model = read_hydra(path), embedded(target, METHOD)
        fitting_target(target, heads, path, METHOD)
        c, tensors = heads.config, heads.tensors
        self.num_drafted = first_heads(target, heads, path, num_heads)
        self.token_ids = heads.token_ids
        self.vocab_size: int = target.vocab_size
        self._width = width = c.hidden_size
        blocks = [f"blocks.{head}.layers" for head in range(self.num_drafted)]
        first = [tensors[f"{block}.0.weight"] for block in blocks]
        self._biases = np.stack([tensors[f"{block}.0.bias"] for block in blocks])

        def product(weight: Floats) -> Product:
            return model.product(weight).rounded()

        # By depth of the token that is read; the root comes with the state.
        self._products = [product(np.concatenate([weight[:, : 2 * width] for weight in first]))]
        for depth in range(1, self.num_drafted):
            columns = slice((depth + 1) * width, (depth + 2) * width)
            self._products.append(product(np.concatenate([weight[:, columns] for weight in first[depth:]])))
        others = [[f"{block}.{layer}" for layer in range(1, c.num_layers)] for block in blocks]
        self._others = [
            [(product(tensors[f"{name}.weight"]), tensors[f"{name}.bias"]) for name in names]
            for names in others
        ]
        if c.shared_output:
            self._outputs = [model.projection(heads.token_ids).rounded()] * self.num_drafted
        else:
            outputs = [tensors[f"lm_heads.{head}.weight"] for head in range(self.num_drafted)]
            self._outputs = [product(output) for output in outputs]
        self._embedded = Embeddings(lambda ids: scaled(model.input_rows(ids)))

    def begin(self, states: Floats, roots: Sequence[int]) -> Floats:
        """f32[n, D], what n roots were chosen from -> read(t_0) f32[n, H, D]."""
        read = np.concatenate([scaled(states), self._embedded(roots)], axis=1)
        begun: Floats = self._products[0](read).reshape(len(roots), -1, self._width) + self._biases
        return begun

    def follow(self, above: Floats, depth: int, tokens: Sequence[int]) -> Floats:
        """read f32[n, H - depth + 1, D] of parents -> that of these tokens, f32[n, H - depth, D]."""
        more = self._products[depth](self._embedded(tokens))
        followed: Floats = above[:, 1:] + more.reshape(len(tokens), -1, self._width)
        return followed

    def logits(self, states: Floats, depth: int, read: Floats) -> Floats:
        """read f32[n, H - depth, D] and states f32[n, D] of n nodes -> f32[n, M], what follows them."""
        ahead = states + silu(read[:, 0])
        for product, bias in self._others[depth]:
            ahead = ahead + silu(product(ahead) + bias)
        return self._outputs[depth](ahead)

    def whole(self, logits: Floats) -> Floats:
        """[F, M] -> [F, V]: -inf for tokens that are never drafted."""
        return of_all_tokens(logits, self.token_ids, self.vocab_size)
