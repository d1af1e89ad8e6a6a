"""DFlash layers made by hand, and the same in numpy: every block afresh, from all states of its text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outpace.heads.decoder_layer import rope
from outpace.heads.dflash import (
    EMBEDDING,
    GATE,
    JOINT,
    OUTPUT,
    DFlashConfig,
    DFlashWeights,
    layer_name,
    write_dflash,
)
from tests.made_heads import random_tensors

TAPS = ("0", "final")


def dflash_config(target: Any, num_layers: int = 2, **options: Any) -> DFlashConfig:
    """That of layers of this target, which draft three tokens, of all that it has."""
    fields: dict[str, Any] = {
        "hidden_size": target.hidden_size, "taps": TAPS, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
        "intermediate_size": 48, "block_size": 4, "mask_token_id": target.vocab_size - 1,
        "causal": (False,) * num_layers, "windows": (0,) * num_layers, "target": target.fingerprint(),
        "vocab_size": target.vocab_size, "model": "a tiny model",
    }  # fmt: skip
    return DFlashConfig(**fields | options)


def random_dflash(
    config: DFlashConfig, *, token_ids: Sequence[int] | None = None, seed: int = 0
) -> DFlashWeights:
    """Weights that f16 holds exactly, of norms around 1, such that what they read shows."""
    tensors = random_tensors(config.shapes(), seed)
    for name, tensor in tensors.items():
        if tensor.ndim == 1 and "norm" in name:
            tensors[name] = (1 + tensor / np.abs(tensor).max() / 4).astype(np.float16).astype(np.float32)
        elif ("layers." in name and tensor.ndim == 2) or name in (EMBEDDING, OUTPUT):
            tensors[name] = tensor * 2
    ids = range(config.num_tokens) if token_ids is None else token_ids
    return DFlashWeights(config, tensors, np.array([*ids], np.int32) if config.num_tokens else None)


def write_random_dflash(
    folder: str | Path, target: Any, *, token_ids: Sequence[int] | None = None, seed: int = 0, **options: Any
) -> DFlashWeights:
    """Random layers of this target in a folder."""
    if token_ids is not None:
        options["num_tokens"] = len(token_ids)
    heads = random_dflash(dflash_config(target, **options), token_ids=token_ids, seed=seed)
    write_dflash(folder, heads)
    return heads


class DFlashTwin:
    """The equations of `heads/dflash.py` in float64.

    embeddings  f[V, D], the target's input embedding. output: f[V, D], its output matrix.
    """

    def __init__(self, heads: DFlashWeights, embeddings: np.ndarray, output: np.ndarray) -> None:
        self.config = heads.config
        self._t = {name: tensor.astype(np.float64) for name, tensor in heads.tensors.items()}
        self._embeddings, self._output = embeddings.astype(np.float64), output.astype(np.float64)
        self._ids = heads.token_ids

    def slots(self, states: np.ndarray, root: int) -> np.ndarray:
        """f64[B, D] behind the last norm, from the states f[n, T * D] of all tokens before the root."""
        c, t = self.config, self._t
        context = self._norm(states.astype(np.float64) @ t["fc.weight"].T, "hidden_norm")
        x = self._embeddings[[root] + [c.mask_token_id] * (c.block_size - 1)]
        for number in range(c.num_layers):
            x = self._layer(number, context, x)
        return self._norm(x, "norm")

    def laws(self, states: np.ndarray, root: int, path: Sequence[int] = ()) -> np.ndarray:
        """f64[M], logits behind a path below the root."""
        c, t, slots = self.config, self._t, self.slots(states, root)
        first = 0 if c.from_root else 1
        hidden = slots[first + len(path)]
        logits = (t["lm_head.weight"] if c.num_tokens else self._output) @ hidden
        if c.markov == "none":
            return logits
        state = np.zeros(c.rank)
        for place, token in enumerate([root, *path]):
            e, h = t[EMBEDDING][token], slots[first + place]
            m = e
            if c.markov == "gated":
                m = _sigmoid(t[f"{GATE}.weight"] @ np.concatenate([h, e]) + t[f"{GATE}.bias"]) * e
            elif c.markov == "rnn":
                joint = t[f"{JOINT}.weight"] @ np.concatenate([state, e, h]) + t[f"{JOINT}.bias"]
                a, u, out = joint[: c.rank], joint[c.rank : 2 * c.rank], joint[2 * c.rank :]
                state = _sigmoid(a) * state + (1 - _sigmoid(a)) * np.tanh(u)
                m = np.tanh(out)
        return logits + t[OUTPUT] @ m

    def chain(self, states: np.ndarray, root: int, length: int) -> list[int]:
        """The best token, the best behind it, and so on."""
        path: list[int] = []
        for _ in range(min(length, self.config.length)):
            best = int(self.laws(states, root, path).argmax())
            path.append(best if self._ids is None else int(self._ids[best]))
        return path

    def _layer(self, number: int, context: np.ndarray, x: np.ndarray) -> np.ndarray:
        c, t, stem = self.config, self._t, layer_name(number)
        before, slots = len(context), len(x)
        own = self._norm(x, stem + "input_layernorm")
        both = np.concatenate([context, own])
        places = np.arange(before + slots)
        q = self._heads(stem, "q", own, places[before:])
        k, v = self._heads(stem, "k", both, places), self._heads(stem, "v", both, None)
        query, key = places[before:, None], places
        sees = key <= query if c.causal[number] else np.full((slots, len(places)), True)
        if c.windows[number]:
            sees = sees & (query - key < c.windows[number])
        found = []
        for head in range(c.num_heads):
            of = head * c.num_kv_heads // c.num_heads
            scores = np.where(sees, q[:, head] @ k[:, of].T / np.sqrt(c.head_dim), -np.inf)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            found.append(weights / weights.sum(axis=1, keepdims=True) @ v[:, of])
        x = x + np.concatenate(found, axis=1) @ t[f"{stem}self_attn.o_proj.weight"].T
        read = self._norm(x, stem + "post_attention_layernorm")
        gate = read @ t[f"{stem}mlp.gate_proj.weight"].T
        wide = gate * _sigmoid(gate) * (read @ t[f"{stem}mlp.up_proj.weight"].T)
        return np.asarray(x + wide @ t[f"{stem}mlp.down_proj.weight"].T)

    def _heads(self, stem: str, name: str, read: np.ndarray, places: np.ndarray | None) -> np.ndarray:
        """[n, heads, head_dim]: normed and turned where there are places."""
        c, t, stem = self.config, self._t, f"{stem}self_attn.{name}"
        wide = read @ t[f"{stem}_proj.weight"].T + (t[f"{stem}_proj.bias"] if c.qkv_bias else 0)
        heads = wide.reshape(len(read), -1, c.head_dim)
        if places is None:
            return heads
        heads = self._norm(heads, f"{stem}_norm")
        inv_freq, scale = rope(c)
        angles = (places[:, None] * inv_freq.astype(np.float64))[:, None]
        low, high = np.split(heads, 2, axis=2)
        cos, sin = scale * np.cos(angles), scale * np.sin(angles)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=2)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean = (x**2).mean(axis=-1, keepdims=True)
        return np.asarray(x / np.sqrt(mean + self.config.rms_eps) * self._t[f"{name}.weight"])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))
