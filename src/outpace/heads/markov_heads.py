"""Markov heads: one pass proposes all positions of a block, and a small recurrence puts them in order.

What `outpace train markov_heads` writes and the drafter `markov_heads` reads. From the target's states at
some taps and the root's row of the output matrix one layer makes, for each of L positions, what the output
matrix reads, and a gate. A state m of r numbers goes along the path, so that a position knows the tokens
before it; the gate says what of it matters there (after DSpark, DeepSeek 2026: a low-rank Markov head):

    u = silu(W [x_1 .. x_T, e] + b)               x, e  scaled to a mean square of 1
    s_i = A_i u + a_i      g_i = G_i u + c_i      i = 1 .. L, the position of a token below the root
    m_i = tanh(E[t_(i-1)] + S m_(i-1))            t_0 the root, m_0 = 0
    logits_i = unembed(s_i) + O (g_i * m_i)

The folder's tensors (see `folder.py`), for width D, W units and M drafted tokens; row M of E is that of all
other tokens:

    trunk.weight f32[W, (T + 1) D]   trunk.bias f32[W]
    position.weight f32[L D, W]      position.bias f32[L D]
    gate.weight f32[L r, W]          gate.bias f32[L r]
    token.weight f32[M + 1, r]       step.weight f32[r, r]      order.weight f32[M, r]
    token_ids i32[M], ascending: the tokens that are drafted
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.files.safetensors import FolderWeights
from outpace.heads.file import read_token_ids_of
from outpace.heads.folder import HeadConfig, Tensors, read_tensors, write_folder

METHOD = "markov_heads"
MAX_LENGTH = 64
TINY = 1e-6  # added to a mean square


@dataclass(frozen=True, slots=True)
class MarkovConfig:
    """What a folder of Markov heads says of itself.

    length       L, positions of a block: how deep it drafts.
    hidden_size  D, width of the target's states.
    taps         those that are read, T of them: layers by number, or "final".
    width        W, units of the layer.
    rank         r, numbers of the state that goes along a path.
    num_tokens   M, the tokens that are drafted.
    target       fingerprint of the model that it was trained on.
    model        what that was called, for error messages.
    """

    length: int
    hidden_size: int
    taps: tuple[str, ...]
    width: int
    rank: int
    num_tokens: int
    target: str
    model: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that every folder has."""
        return {
            "trunk.weight": (self.width, (len(self.taps) + 1) * self.hidden_size),
            "trunk.bias": (self.width,),
            "position.weight": (self.length * self.hidden_size, self.width),
            "position.bias": (self.length * self.hidden_size,),
            "gate.weight": (self.length * self.rank, self.width),
            "gate.bias": (self.length * self.rank,),
            "token.weight": (self.num_tokens + 1, self.rank),
            "step.weight": (self.rank, self.rank),
            "order.weight": (self.num_tokens, self.rank),
        }


@dataclass(frozen=True, slots=True)
class MarkovWeights:
    """Config, f32 tensors by name, and the drafted tokens i32[M]."""

    config: MarkovConfig
    tensors: Tensors
    token_ids: NDArray[np.int32]

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"
        assert self.token_ids.shape == (self.config.num_tokens,), "an id for every drafted token"


def scaled(states: NDArray[np.floating]) -> NDArray[np.float32]:
    """[..., D] -> f32[..., D] of a mean square of 1; a state of zeros stays."""
    wide = states.astype(np.float32)
    # Not np.mean: for a few states its own Python is most of the time, before every draft.
    mean = np.einsum("...d,...d->...", wide, wide)[..., None] / np.float32(wide.shape[-1])
    scaled: NDArray[np.float32] = wide / np.sqrt(mean + np.float32(TINY))
    return scaled


def silu(wide: NDArray[np.float32]) -> NDArray[np.float32]:
    """x / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # what is far below zero is nothing
        return np.asarray(wide / (1.0 + np.exp(-wide)), np.float32)


def read_markov(folder: str | Path) -> MarkovWeights:
    """The heads in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, "outpace train markov_heads")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    ids = read_token_ids_of(found.folder, weights, config.num_tokens)
    assert ids is not None, "no config has 0 tokens"
    return MarkovWeights(config, read_tensors(weights, config.shapes(), found.folder), ids)


def write_markov(folder: str | Path, heads: MarkovWeights) -> None:
    """Write a folder, each file whole or not at all."""
    write_folder(folder, METHOD, asdict(heads.config), heads.tensors, token_ids=heads.token_ids)


def read_config(found: HeadConfig) -> MarkovConfig:
    """The fields of a config.json, every one checked."""
    taps, target = found.field("taps"), found.field("target")
    if not isinstance(taps, list) or not taps or not all(isinstance(t, str) and t for t in taps):
        raise found.fault("taps", "expected one or more names of taps: layers by number, or final")
    if not isinstance(target, str) or not target:
        raise found.fault("target", "expected the fingerprint of a model")
    return MarkovConfig(
        found.size("length", 1, MAX_LENGTH),
        found.size("hidden_size"),
        tuple(taps),
        found.size("width"),
        found.size("rank"),
        found.size("num_tokens"),
        target,
        found.model,
    )
