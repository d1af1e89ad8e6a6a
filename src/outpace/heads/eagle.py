"""EAGLE: one decoder layer that goes on, in feature space, where the target's states end.

What `outpace train eagle` and `outpace heads import` write, and the drafter `eagle` reads. Both generations:

    eagle3   g = W [x_1 .. x_T]          of the states x that a token was chosen from, at T taps
             y = layer([norm(e), norm(g)]) + g        e: the token's row of the input embedding
             logits = H norm(y)          of the M drafted tokens
    eagle    g = W [e, x] + b            x: the state at "final"
             y = layer(g) + g            without a norm before the attention
             logits = the target's own output matrix of y

A drafted token has no states of the target. In place of g (of x in `eagle`) it reads the y behind the token
before it.

The folder's tensors (see `folder.py`) have the names that EAGLE checkpoints have in vLLM and speculators, and
beside them token_ids i32[M], ascending, in place of the offsets d2t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from outpace.files.safetensors import FolderWeights
from outpace.heads.decoder_layer import check_rope, flag_field, layer_fields, layer_shapes, taps_field
from outpace.heads.file import read_token_ids_of
from outpace.heads.folder import HeadConfig, Tensors, read_tensors, write_folder

METHOD = "eagle"
LAYER = "layers.0."
Generation = Literal["eagle", "eagle3"]
FLAGS = (
    "norm_before_fc", "fc_norm", "norm_before_residual", "norm_output", "fc_bias", "qkv_bias", "qk_norm",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class EagleConfig:
    """What a folder of an EAGLE layer says of itself.

    generation    "eagle" (1 and 2, which differ in their trees alone) or "eagle3".
    hidden_size   D, width of the layer and of the target's states.
    taps          those that are read: layers by number, the first 0, whose outputs they are; or "final".
    num_tokens    M, the tokens that are drafted; 0 in `eagle`, which has the target's output matrix.
    rope_scaling  as in transformers; None for none.
    target        fingerprint of the model that it was trained on.
    model         what that was called, for error messages.
    vocab_size    V of that, for `outpace heads export`; 0 where it is not known.

    norm_before_fc        a norm over all states together before W. fc_norm: one for each tap's.
    norm_before_residual  what is added to the layer's output is norm(g) and not g.
    norm_output           drafted tokens read norm(y) and not y.
    fc_bias, qkv_bias     biases that there are. qk_norm: norms of queries and keys, by heads.
    """

    generation: Generation
    hidden_size: int
    taps: tuple[str, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    num_tokens: int
    target: str
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    rope_length: int = 2048
    norm_before_fc: bool = False
    fc_norm: bool = False
    norm_before_residual: bool = False
    norm_output: bool = False
    fc_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    model: str = ""
    vocab_size: int = 0

    @property
    def is_third(self) -> bool:
        """Whether it is an EAGLE-3 layer."""
        return self.generation == "eagle3"

    @property
    def input_width(self) -> int:
        """What the layer's attention reads."""
        return 2 * self.hidden_size if self.is_third else self.hidden_size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that the folder has."""
        d, read = self.hidden_size, len(self.taps) * self.hidden_size
        found: dict[str, tuple[int, ...]] = {"fc.weight": (d, read if self.is_third else d + read)}
        found |= layer_shapes(self, LAYER, self.input_width)
        if self.is_third:
            norms = (LAYER + "input_layernorm", LAYER + "hidden_norm", "norm")
            found |= {f"{name}.weight": (d,) for name in norms}
            found["lm_head.weight"] = (self.num_tokens, d)
        if self.norm_before_fc:
            found["input_norm.weight"] = (read,)
        if self.fc_norm:
            found |= {f"fc_norm.{tap}.weight": (d,) for tap in range(len(self.taps))}
        if self.fc_bias:
            found["fc.bias"] = (d,)
        return found


@dataclass(frozen=True, slots=True)
class EagleWeights:
    """Config, f32 tensors by name, and the drafted tokens i32[M]; None in `eagle`."""

    config: EagleConfig
    tensors: Tensors
    token_ids: NDArray[np.int32] | None

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"
        count = 0 if self.token_ids is None else len(self.token_ids)
        assert count == self.config.num_tokens, "an id for every drafted token"


def read_eagle(folder: str | Path) -> EagleWeights:
    """The layer in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, "outpace train eagle")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    ids = read_token_ids_of(found.folder, weights, config.num_tokens)
    return EagleWeights(config, read_tensors(weights, config.shapes(), found.folder), ids)


def write_eagle(folder: str | Path, heads: EagleWeights) -> None:
    """Write a folder, each file whole or not at all."""
    more = {} if heads.token_ids is None else {"token_ids": heads.token_ids}
    write_folder(folder, METHOD, asdict(heads.config), heads.tensors, **more)


def read_config(found: HeadConfig) -> EagleConfig:
    """The fields of a config.json, every one checked."""
    generation = found.field("generation")
    if generation not in get_args(Generation):
        raise found.fault("generation", f"accepted are {', '.join(get_args(Generation))}")
    taps = taps_field(found)
    target = found.fingerprint()
    if generation == "eagle" and taps != ("final",):
        raise found.fault("taps", "accepted in eagle is final alone")
    flags: dict[str, Any] = {name: flag_field(found, name) for name in FLAGS}
    config = EagleConfig(
        generation=generation,
        taps=taps,
        num_tokens=found.size("num_tokens") if generation == "eagle3" else 0,
        target=target,
        model=found.model,
        vocab_size=0 if found.field("vocab_size") is None else found.size("vocab_size", 0),
        **layer_fields(found),
        **flags,
    )
    check_rope(config, found.folder)
    return config
