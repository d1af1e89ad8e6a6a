"""EAGLE layers made by hand, and the same layer in numpy, one token after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outpace.heads.decoder_layer import rope
from outpace.heads.eagle import LAYER, EagleConfig, EagleWeights, write_eagle
from tests.made_heads import random_tensors

TAPS = ("0", "1", "final")


def eagle_config(target: Any, generation: str = "eagle3", **options: Any) -> EagleConfig:
    """That of a layer of this target; its first tokens are drafted."""
    fields: dict[str, Any] = {
        "generation": generation,
        "hidden_size": target.hidden_size,
        "taps": TAPS if generation == "eagle3" else ("final",),
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 16,
        "intermediate_size": 48,
        "num_tokens": 8 if generation == "eagle3" else 0,
        "target": target.fingerprint(),
        "model": "a tiny model",
    }
    return EagleConfig(**fields | options)


def random_eagle(
    config: EagleConfig, *, token_ids: Sequence[int] | None = None, seed: int = 0
) -> EagleWeights:
    """Weights that f16 holds exactly, of norms around 1."""
    tensors = random_tensors(config.shapes(), seed)
    for name, tensor in tensors.items():
        if tensor.ndim == 1 and "norm" in name:
            tensors[name] = (1 + tensor / np.abs(tensor).max() / 4).astype(np.float16).astype(np.float32)
        elif tensor.ndim == 2:
            tensors[name] = tensor * 2  # such that what it reads shows
    ids = range(config.num_tokens) if token_ids is None else token_ids
    return EagleWeights(config, tensors, np.array([*ids], np.int32) if config.num_tokens else None)


def write_random_eagle(
    folder: str | Path, target: Any, *, token_ids: Sequence[int] | None = None, seed: int = 0, **options: Any
) -> EagleWeights:
    """A random layer of this target in a folder."""
    heads = random_eagle(eagle_config(target, **options), token_ids=token_ids, seed=seed)
    write_eagle(folder, heads)
    return heads


class EagleTwin:
    """The equations of `heads/eagle.py` in float64.

    embeddings  f[V, D], the target's input embedding; output: f[V, D], its output matrix (of `eagle` alone).
    """

    def __init__(self, heads: EagleWeights, embeddings: np.ndarray, output: np.ndarray | None = None) -> None:
        self.config = heads.config
        self._t = {name: tensor.astype(np.float64) for name, tensor in heads.tensors.items()}
        self._embeddings = embeddings.astype(np.float64)
        self._output = None if output is None else output.astype(np.float64)
        self._inv_freq, self._rope_scale = rope(heads.config)

    def feature(self, states: np.ndarray) -> np.ndarray:
        """f64[D] of states f[T * D] at the taps."""
        c, t, states = self.config, self._t, states.astype(np.float64)
        if not c.is_third:
            return states
        if c.norm_before_fc:
            states = self._norm(states, t["input_norm.weight"])
        if c.fc_norm:
            parts = np.split(states, len(c.taps))
            states = np.concatenate([self._norm(p, t[f"fc_norm.{i}.weight"]) for i, p in enumerate(parts)])
        return t["fc.weight"] @ states + (t["fc.bias"] if c.fc_bias else 0)

    def output(
        self, before: list[tuple[np.ndarray, np.ndarray]], token: int, feature: np.ndarray
    ) -> np.ndarray:
        """f64[D] behind a token; `before` are the keys and values of those before it, and gets its own."""
        c, t = self.config, self._t
        e = self._embeddings[token]
        if c.is_third:
            hidden = self._norm(feature, t[LAYER + "hidden_norm.weight"])
            read = np.concatenate([self._norm(e, t[LAYER + "input_layernorm.weight"]), hidden])
            x = hidden if c.norm_before_residual else feature
        else:
            read = x = t["fc.weight"] @ np.concatenate([e, feature]) + (t["fc.bias"] if c.fc_bias else 0)
        at = len(before)
        q, k, v = (self._projected(name, read) for name in "qkv")
        q, k = self._turned(q, at), self._turned(k, at)
        before.append((k, v))
        heads = []
        for head in range(c.num_heads):
            of = head * c.num_kv_heads // c.num_heads
            scores = np.array([q[head] @ key[of] for key, _ in before]) / np.sqrt(c.head_dim)
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            heads.append(sum(w * value[of] for w, (_, value) in zip(weights, before, strict=True)))
        x = x + t[LAYER + "self_attn.o_proj.weight"] @ np.concatenate(heads)
        read = self._norm(x, t[LAYER + "post_attention_layernorm.weight"])
        gate = t[LAYER + "mlp.gate_proj.weight"] @ read
        wide = gate / (1 + np.exp(-gate)) * (t[LAYER + "mlp.up_proj.weight"] @ read)
        found: np.ndarray = x + t[LAYER + "mlp.down_proj.weight"] @ wide
        return found

    def behind(self, output: np.ndarray) -> np.ndarray:
        """The feature of a token that an output has led to."""
        return self._norm(output, self._t["norm.weight"]) if self.config.norm_output else output

    def logits(self, output: np.ndarray) -> np.ndarray:
        """f64[M] of the drafted tokens."""
        if not self.config.is_third:
            assert self._output is not None
            return self._output @ output
        return self._t["lm_head.weight"] @ self._norm(output, self._t["norm.weight"])

    def _projected(self, name: str, read: np.ndarray) -> np.ndarray:
        c, t, stem = self.config, self._t, f"{LAYER}self_attn.{name}"
        wide = t[f"{stem}_proj.weight"] @ read + (t[f"{stem}_proj.bias"] if c.qkv_bias else 0)
        heads = wide.reshape(-1, c.head_dim)
        if c.qk_norm and name != "v":
            heads = np.stack([self._norm(head, t[f"{stem}_norm.weight"]) for head in heads])
        return heads

    def _turned(self, heads: np.ndarray, at: int) -> np.ndarray:
        """Rotary: the pairs (i, i + half), as in transformers."""
        angles = at * self._inv_freq.astype(np.float64)
        cos, sin = self._rope_scale * np.cos(angles), self._rope_scale * np.sin(angles)
        low, high = np.split(heads, 2, axis=1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=1)

    def _norm(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        normed: np.ndarray = x / np.sqrt((x**2).mean() + self.config.rms_eps) * weight
        return normed
