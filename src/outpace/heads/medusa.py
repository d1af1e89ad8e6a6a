"""Medusa heads: what `outpace train medusa` writes and the drafter `medusa` reads.

Cai et al. 2024, "Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
arXiv:2401.10774. Head h of H drafts the token h places below the root. It reads the state x f32[D] that the
root was chosen from, through l residual layers of its own and an output matrix, its own or the model's:

    x = x + silu(W x + b), l times      logits = s O x

The folder (see `folder.py`) has the names of vLLM's Medusa checkpoints, in its config and for its tensors,
and beside them the fields of all heads here. For D, M drafted tokens, h from 0 to H - 1, i from 0 to l - 1:

    blocks.{h}.layers.{i}.weight f32[D, D]   blocks.{h}.layers.{i}.bias f32[D], if medusa_fc_bias
    lm_heads.{h}.weight f32[M, D]            if original_lm_head, the first alone: the model's own rows
    token_map i64[M], ascending: the tokens that are drafted; needed where they are not the whole vocabulary
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.files.safetensors import FolderWeights
from outpace.heads.file import read_drafted
from outpace.heads.folder import HeadConfig, Tensors, checked_tensor, read_tensors, write_folder

METHOD = "medusa"
MAX_HEADS, MAX_LAYERS = 64, 16
LOGIT_SCALES = 1e-6, 1e6  # of f32 logits: beyond it they are all alike, or infinite
SHARED = "lm_heads.0.weight"


@dataclass(frozen=True, slots=True)
class MedusaConfig:
    """What a folder of Medusa heads says of itself, in vLLM's words.

    num_heads             H: how deep it drafts.
    num_hidden_layers     l, residual layers of each head.
    hidden_size           D, width of the target's states at "final".
    vocab_size            V, of the model.
    truncated_vocab_size  M, the tokens that are drafted.
    target                fingerprint of the model that they were trained on.
    model                 what that was called, for error messages.
    original_lm_head      whether all heads have the model's output matrix in place of one each.
    medusa_fc_bias        whether the residual layers have biases.
    logit_scale           s. Where the output matrix is the model's own, its own scale holds here.
    """

    num_heads: int
    num_hidden_layers: int
    hidden_size: int
    vocab_size: int
    truncated_vocab_size: int
    target: str
    model: str = ""
    original_lm_head: bool = False
    medusa_fc_bias: bool = True
    logit_scale: float = 1.0

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that are the heads' own."""
        width, shapes = self.hidden_size, dict[str, tuple[int, ...]]()
        for head in range(self.num_heads):
            for layer in range(self.num_hidden_layers):
                shapes[f"blocks.{head}.layers.{layer}.weight"] = (width, width)
                if self.medusa_fc_bias:
                    shapes[f"blocks.{head}.layers.{layer}.bias"] = (width,)
            if not self.original_lm_head:
                shapes[f"lm_heads.{head}.weight"] = (self.truncated_vocab_size, width)
        return shapes


@dataclass(frozen=True, slots=True)
class MedusaWeights:
    """Config, f32 tensors by name, and the drafted tokens i64[M] (None: all)."""

    config: MedusaConfig
    tensors: Tensors
    token_ids: NDArray[np.int64] | None

    def __post_init__(self) -> None:
        c, shapes = self.config, {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == c.shapes(), f"tensors of shapes {shapes}, not {c.shapes()}"
        count = c.vocab_size if self.token_ids is None else len(self.token_ids)
        assert count == c.truncated_vocab_size, "an id for every drafted token"


def read_medusa(folder: str | Path) -> MedusaWeights:
    """The heads in a folder; FormatError where it is missing, truncated or something else.

    The values of a shared output matrix are not read: the target has them.
    """
    found = HeadConfig(folder, METHOD, "outpace train medusa")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    ids = read_drafted(
        found.folder, weights, "token_map", np.int64, config.truncated_vocab_size, config.vocab_size
    )
    if config.original_lm_head:
        checked_tensor(weights, SHARED, (config.truncated_vocab_size, config.hidden_size), found.folder)
    return MedusaWeights(config, read_tensors(weights, config.shapes(), found.folder), ids)


def write_medusa(
    folder: str | Path, heads: MedusaWeights, *, output: NDArray[np.float32] | None = None
) -> None:
    """Write a folder, each file whole or not at all.

    output  f32[M, D], the model's own rows for the drafted tokens, where the heads share them: other engines
            read them there.
    """
    c = heads.config
    assert (output is not None) == c.original_lm_head, "an output matrix where it is shared"
    tensors = dict(heads.tensors)
    if output is not None:
        assert output.shape == (c.truncated_vocab_size, c.hidden_size), "a row for every drafted token"
        tensors[SHARED] = output
    ids = heads.token_ids
    more: dict[str, Any] = {} if ids is None else {"token_map": np.ascontiguousarray(ids, np.int64)}
    write_folder(folder, METHOD, {"model_type": METHOD, **asdict(c)}, tensors, **more)


def read_config(found: HeadConfig) -> MedusaConfig:
    """The fields of a config.json, every one checked."""
    if found.field("model_type") != METHOD:
        raise found.fault("model_type", f"accepted is {METHOD!r}")
    for name in ("original_lm_head", "medusa_fc_bias"):
        if type(found.field(name)) is not bool:
            raise found.fault(name, "accepted are true and false")
    target, scale = found.field("target"), found.field("logit_scale")
    if not isinstance(target, str) or not target:
        raise found.fault("target", "expected the fingerprint of a model")
    scale = 1.0 if scale is None else found.number("logit_scale", *LOGIT_SCALES)
    vocab_size = found.size("vocab_size")
    return MedusaConfig(
        found.size("num_heads", 1, MAX_HEADS),
        found.size("num_hidden_layers", 1, MAX_LAYERS),
        found.size("hidden_size"),
        vocab_size,
        found.size("truncated_vocab_size", 1, vocab_size),
        target,
        found.model,
        found.field("original_lm_head"),
        found.field("medusa_fc_bias"),
        scale,
    )
