"""Hydra heads: what `outpace train hydra` writes and the drafter `hydra` reads.

Ankner et al. 2024, "Hydra: Sequentially-Dependent Draft Heads for Medusa Decoding", arXiv:2402.05109. Head h
of H drafts the token h places below the root, and knows the tokens before it. It reads the state x f32[D]
that the root was chosen from, and input embeddings e f32[D] of the root t_0 and of the tokens drafted behind
it, through l layers and an output matrix, the model's or its own:

    z = x + silu(W_h [x', e'(t_0) .. e'(t_(h-1))] + b_h)      x', e'  scaled to a mean square of 1
    z = z + silu(W z + b), l - 1 times      logits = O z

The folder's tensors (see `folder.py`), for D, M drafted tokens, h from 0 to H - 1, i from 1 to l - 1:

    blocks.{h}.layers.0.weight f32[D, (h + 2) D]   blocks.{h}.layers.0.bias f32[D]
    blocks.{h}.layers.{i}.weight f32[D, D]         blocks.{h}.layers.{i}.bias f32[D]
    lm_heads.{h}.weight f32[M, D]                  if not shared_output
    token_ids i32[M], ascending: the tokens that are drafted; needed where they are not the whole vocabulary

Deviations. Inputs of the first layer are scaled: embeddings are often far smaller than states. There is no
prefix attention, which the paper's Hydra++ has beside deeper heads (`num_layers`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.files.safetensors import FolderWeights
from outpace.heads.file import read_drafted
from outpace.heads.folder import HeadConfig, Tensors, read_tensors, write_folder
from outpace.heads.medusa import MAX_HEADS, MAX_LAYERS

METHOD = "hydra"


@dataclass(frozen=True, slots=True)
class HydraConfig:
    """What a folder of Hydra heads says of itself.

    num_heads      H: how deep it drafts.
    num_layers     l, layers of each head.
    hidden_size    D, width of the target's states at "final" and of its input embeddings.
    vocab_size     V, of the model.
    num_tokens     M, the tokens that are drafted.
    target         fingerprint of the model that they were trained on.
    model          what that was called, for error messages.
    shared_output  whether all heads have the model's output matrix in place of one each.
    """

    num_heads: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_tokens: int
    target: str
    model: str = ""
    shared_output: bool = True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that every folder has."""
        width, shapes = self.hidden_size, dict[str, tuple[int, ...]]()
        for head in range(self.num_heads):
            for layer in range(self.num_layers):
                read = width if layer else (head + 2) * width
                shapes[f"blocks.{head}.layers.{layer}.weight"] = (width, read)
                shapes[f"blocks.{head}.layers.{layer}.bias"] = (width,)
            if not self.shared_output:
                shapes[f"lm_heads.{head}.weight"] = (self.num_tokens, width)
        return shapes


@dataclass(frozen=True, slots=True)
class HydraWeights:
    """Config, f32 tensors by name, and the drafted tokens i32[M] (None: all)."""

    config: HydraConfig
    tensors: Tensors
    token_ids: NDArray[np.int32] | None

    def __post_init__(self) -> None:
        c, shapes = self.config, {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == c.shapes(), f"tensors of shapes {shapes}, not {c.shapes()}"
        count = c.vocab_size if self.token_ids is None else len(self.token_ids)
        assert count == c.num_tokens, "an id for every drafted token"


def read_hydra(folder: str | Path) -> HydraWeights:
    """The heads in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, "outpace train hydra")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    ids = read_drafted(found.folder, weights, "token_ids", np.int32, config.num_tokens, config.vocab_size)
    return HydraWeights(config, read_tensors(weights, config.shapes(), found.folder), ids)


def write_hydra(folder: str | Path, heads: HydraWeights) -> None:
    """Write a folder, each file whole or not at all."""
    ids = heads.token_ids
    more = {} if ids is None else {"token_ids": np.ascontiguousarray(ids, np.int32)}
    write_folder(folder, METHOD, asdict(heads.config), heads.tensors, **more)


def read_config(found: HeadConfig) -> HydraConfig:
    """The fields of a config.json, every one checked."""
    if type(found.field("shared_output")) is not bool:
        raise found.fault("shared_output", "accepted are true and false")
    target = found.field("target")
    if not isinstance(target, str) or not target:
        raise found.fault("target", "expected the fingerprint of a model")
    vocab_size = found.size("vocab_size")
    return HydraConfig(
        found.size("num_heads", 1, MAX_HEADS),
        found.size("num_layers", 1, MAX_LAYERS),
        found.size("hidden_size"),
        vocab_size,
        found.size("num_tokens", 1, vocab_size),
        target,
        found.model,
        found.field("shared_output"),
    )
