"""An adapter where it runs, beside its target: see `exit_adapter.py` for what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Embedded, Layered, Looped, Target
from outpace.core.errors import OutpaceError
from outpace.core.layers import Floats, LayerSpec
from outpace.heads.exit_adapter import AdapterWeights, read_adapter

IDLE = 32  # units of a feed-forward that adds nothing: the engine's layer has one, the paper's has none


class Exited(Layered, Embedded, Protocol):
    """A target that an adapter can stand in: it runs its first layers, shows states, and has room for one."""


class ExitAdapter:
    """The adapter in a folder; an OutpaceError if it is another model's.

    rows  where it runs, with the keys and values of texts.
    """

    def __init__(self, target: Target, path: str | Path) -> None:
        adapter, model = read_adapter(path), exited(target)
        config = self.config = adapter.config
        if config.target != model.fingerprint() or config.hidden_size != model.hidden_size:
            raise OutpaceError(
                f"the adapter in {path} was trained on another model ({config.model or 'of no name'}); "
                "accepted are adapters of this one, as `outpace train early_exit` makes them"
            )
        if config.layers >= model.num_layers:
            raise OutpaceError(
                f"the adapter in {path} stands behind {config.layers} layers, accepted are 1 to "
                f"{model.num_layers - 1} of the model's {model.num_layers}"
            )
        if adapter.token_ids is not None and adapter.token_ids[-1] >= model.vocab_size:
            raise OutpaceError(
                f"the adapter in {path} drafts the token {adapter.token_ids[-1]}, accepted are those of "
                f"the model's vocabulary, 0 to {model.vocab_size - 1}"
            )
        model.tap(config.tap)
        self.vocab_size: int = model.vocab_size
        self.token_ids = adapter.token_ids
        self._exit_norm = adapter.tensors["exit_norm.weight"]
        self._norm = adapter.tensors["input_layernorm.weight"]
        # A row may hold the text, and a tree behind it.
        self.rows = model.layer(layer_spec(adapter, 2 * model.context_length))
        self._unembed = model.projection(self.token_ids).rounded()

    def exit_states(self, states: Floats) -> Floats:
        """f32[n, D], x -> z: as `Layered.run` shows them."""
        return self._normed(states, self._exit_norm)

    def inputs(self, states: Floats) -> tuple[Floats, Floats]:
        """f32[n, D], z -> (what the attention reads, what the layer adds to)."""
        return self._normed(states, self._norm), np.ascontiguousarray(states)

    def logits(self, outputs: Floats) -> Floats:
        """f32[n, D], y -> f32[n, V]: -inf for tokens that are never drafted."""
        found = self._unembed(outputs)
        if self.token_ids is None:
            return found
        every = np.full((len(found), self.vocab_size), -np.inf, np.float32)
        every[:, self.token_ids] = found
        return every

    def _normed(self, x: Floats, weight: NDArray[np.float32]) -> Floats:
        squares = np.mean(x * x, axis=1, keepdims=True)
        normed: Floats = x / np.sqrt(squares + np.float32(self.config.rms_eps)) * weight
        return normed


def exited(target: Target) -> Exited:
    """The target, if an adapter can stand in it; else an OutpaceError."""
    loops = target.num_loops if isinstance(target, Looped) else 1
    if not isinstance(target, Layered) or not isinstance(target, Embedded) or loops > 1:
        raise OutpaceError(
            f"an adapter stands behind the first layers of a model, in which {type(target).__name__} has no "
            "place for one, accepted are native targets without loops"
        )
    return target


def layer_spec(adapter: AdapterWeights, context_length: int) -> LayerSpec:
    """The layer as the engine takes it."""
    c, t = adapter.config, adapter.tensors
    idle = np.zeros((IDLE, c.hidden_size), np.float32)
    return LayerSpec(
        hidden_size=c.hidden_size, input_width=c.hidden_size, num_heads=c.num_heads,
        num_kv_heads=c.num_kv_heads, head_dim=c.head_dim, intermediate_size=IDLE,
        context_length=context_length, rms_eps=c.rms_eps, rope_inv_freq=c.inv_freq(), rope_scale=1.0,
        matrices={
            **{name: t[f"self_attn.{name}_proj.weight"] for name in "qkvo"},
            "gate": idle, "up": idle, "down": np.ascontiguousarray(idle.T),
        },
        vectors={"ffn_norm": np.ones(c.hidden_size, np.float32)},
    )  # fmt: skip
