"""Adapters of early exits made by hand, and the same adapter in torch: float64, a whole text at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.call import Call
from outpace.core.tree import TokenTree
from outpace.heads.exit_adapter import AdapterConfig, AdapterWeights, write_adapter
from tests.made_heads import random_tensors


def adapter_config(target: Any, **options: Any) -> AdapterConfig:
    """That of an adapter behind the first layer of this target."""
    fields: dict[str, Any] = {
        "layers": 1, "hidden_size": target.hidden_size, "num_heads": 4, "num_kv_heads": 2, "head_dim": 16,
        "target": target.fingerprint(), "rms_eps": target.config.rms_eps, "model": "a tiny model",
    }  # fmt: skip
    return AdapterConfig(**fields | options)


def random_adapter(
    config: AdapterConfig, *, token_ids: Iterable[int] | None = None, seed: int = 0
) -> AdapterWeights:
    """Weights that f16 holds exactly, of norms around 1, loud enough for the attention to show."""
    tensors = random_tensors(config.shapes(), seed)
    for name, tensor in tensors.items():
        loud = 1 + tensor / np.abs(tensor).max() / 4 if tensor.ndim == 1 else tensor * 2
        tensors[name] = loud.astype(np.float16).astype(np.float32)
    return AdapterWeights(config, tensors, None if token_ids is None else np.array([*token_ids], np.int32))


def write_random_adapter(
    folder: str | Path,
    target: Any,
    *,
    token_ids: Iterable[int] | None = None,
    seed: int = 0,
    **options: Any,
) -> AdapterWeights:
    """A random adapter of this target in a folder, with the last norm of the target."""
    adapter = random_adapter(adapter_config(target, **options), token_ids=token_ids, seed=seed)
    adapter.tensors["exit_norm.weight"][:] = last_norm(target)
    write_adapter(folder, adapter)
    return adapter


def last_norm(target: Any) -> np.ndarray:
    """f32[D]: that of a native target, from its weights."""
    data = target.weights.tensors["final_norm"]
    found: np.ndarray = target.weights.buffer[data.offset : data.offset + data.nbytes].view(np.float32)
    return found


def exit_states(target: Any, text: Sequence[int], layers: int) -> np.ndarray:
    """f32[n, D] behind every token: what the output matrix reads after so many layers."""
    row = target.open()
    scores = target.run([Call.on(row, TokenTree.chain(text[0], text[1:]))], layers=layers)
    found: np.ndarray = scores.hidden("final")
    target.free([row])
    return found


def adapted(adapter: AdapterWeights, states: np.ndarray) -> np.ndarray:
    """f64[n, D]: y of the tokens of a text, from z of all of them; after the equations of the module."""
    import torch

    c = adapter.config
    t = {name: torch.from_numpy(tensor).double() for name, tensor in adapter.tensors.items()}
    z = torch.from_numpy(states).double()
    read = z / (z.square().mean(1, keepdim=True) + c.rms_eps).sqrt() * t["input_layernorm.weight"]
    q, k, v = ((read @ t[f"self_attn.{name}_proj.weight"].T).unflatten(1, (-1, c.head_dim)) for name in "qkv")
    half = c.head_dim // 2
    turns = torch.outer(torch.arange(len(z)).double(), c.rope_theta ** -(torch.arange(half).double() / half))
    circle = torch.polar(torch.ones_like(turns), turns)[:, None]
    q, k = (torch.complex(x[..., :half], x[..., half:]) * circle for x in (q, k))
    heads = []
    for head in range(c.num_heads):
        of = head * c.num_kv_heads // c.num_heads
        scores = (q[:, head] @ k[:, of].conj().T).real / c.head_dim**0.5
        ahead = torch.ones(len(z), len(z), dtype=torch.bool).triu(1)
        heads.append(scores.masked_fill(ahead, -torch.inf).softmax(1) @ v[:, of])
    y: np.ndarray = (z + torch.cat(heads, 1) @ t["self_attn.o_proj.weight"].T).numpy()
    return y
