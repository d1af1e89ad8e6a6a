"""An EAGLE layer where it runs, beside its target: see `eagle.py` for what it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.layers import Floats
from outpace.core.products import Product
from outpace.heads.decoder_layer import layer_spec, normed
from outpace.heads.eagle import LAYER, METHOD, read_eagle
from outpace.heads.embeddings import Embeddings, embedded


class EagleLayer:
    """The layer in a folder; an OutpaceError if it is another model's.

    rows  where it runs, with the keys and values of texts.
    """

    def __init__(self, target: Target, path: str | Path) -> None:
        heads, model = read_eagle(path), embedded(target, METHOD)
        config = self.config = heads.config
        if config.target != model.fingerprint() or config.hidden_size != model.hidden_size:
            raise OutpaceError(
                f"the heads in {path} were trained on another model ({config.model or 'of no name'}); "
                "accepted are heads of this one, as `outpace train eagle` makes them"
            )
        if heads.token_ids is not None and heads.token_ids[-1] >= target.vocab_size:
            raise OutpaceError(
                f"the heads in {path} draft the token {heads.token_ids[-1]}, accepted are those of "
                f"the model's vocabulary, 0 to {target.vocab_size - 1}"
            )
        model.tap(*config.taps)
        self.vocab_size: int = target.vocab_size
        self.token_ids = heads.token_ids
        self._tensors = {name: tensor for name, tensor in heads.tensors.items() if tensor.ndim == 1}
        # A row may hold the text, and a tree behind it.
        room = 2 * target.context_length
        self.rows = model.layer(
            layer_spec(config, heads.tensors, LAYER, config.input_width, context_length=room)
        )
        self._fc = self.rows.product(heads.tensors["fc.weight"])
        self._unembed: Product = (
            self.rows.product(heads.tensors["lm_head.weight"])
            if config.is_third
            else model.projection().rounded()
        )
        self._embedded = Embeddings(model.input_rows)

    def features(self, states: Floats) -> Floats:
        """f32[n, T * D], states at the taps that tokens were chosen from -> what the layer reads of them."""
        c = self.config
        if not c.is_third:
            return states
        if c.norm_before_fc:
            states = self._normed("input_norm.weight", states)
        if c.fc_norm:
            parts = np.split(states, len(c.taps), axis=1)
            normed = [self._normed(f"fc_norm.{tap}.weight", part) for tap, part in enumerate(parts)]
            states = np.concatenate(normed, axis=1)
        return self._combined(states)

    def behind(self, outputs: Floats) -> Floats:
        """f32[n, D], outputs of the layer -> what it reads of a drafted token that they led to."""
        return self._normed("norm.weight", outputs) if self.config.norm_output else outputs

    def inputs(self, tokens: Sequence[int], features: Floats) -> tuple[Floats, Floats]:
        """n tokens, features f32[n, D] -> (what the attention reads f32[n, W], the residual f32[n, D])."""
        embedded = self._embedded(tokens)
        if not self.config.is_third:
            entered = self._combined(np.concatenate([embedded, features], axis=1))
            return entered, entered
        hidden = self._normed(LAYER + "hidden_norm.weight", features)
        read = np.concatenate([self._normed(LAYER + "input_layernorm.weight", embedded), hidden], axis=1)
        return read, hidden if self.config.norm_before_residual else np.ascontiguousarray(features)

    def logits(self, outputs: Floats) -> Floats:
        """f32[n, D], outputs of the layer -> f32[n, V]: -inf for tokens that are never drafted."""
        if self.config.is_third:
            outputs = self._normed("norm.weight", outputs)
        found = self._unembed(outputs)
        if self.token_ids is None:
            return found
        every = np.full((len(found), self.vocab_size), -np.inf, np.float32)
        every[:, self.token_ids] = found
        return every

    def _combined(self, wide: Floats) -> Floats:
        combined = self._fc(np.ascontiguousarray(wide))
        return combined + self._tensors["fc.bias"] if self.config.fc_bias else combined

    def _normed(self, name: str, x: Floats) -> Floats:
        return normed(x, self._tensors[name], self.config.rms_eps)
