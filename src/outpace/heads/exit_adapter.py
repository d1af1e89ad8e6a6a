"""The adapter of an early exit: one attention between a model's first layers and its output matrix.

Liu et al. 2024, "Kangaroo: Lossless Self-Speculative Decoding via Double Early Exiting", arXiv:2404.18911.
What `outpace train early_exit` writes and the drafter `early_exit` reads. With x the state after E layers,

    z = norm_L(x)                      the model's own last norm: what its output matrix would read here
    y = z + O attention(norm(z))       over all tokens up to this one, with rotary positions
    logits = the model's own output matrix of y, of the M drafted tokens

Deviation. In the paper the second norm stands behind the attention and is learned too. Here it is the model's
and stands before it, so that O = 0 drafts what the bare exit says, and training begins there.

The folder's tensors (see `folder.py`), with states of width D, and H heads (G of keys) of width d:

    exit_norm.weight f32[D]    norm_L as x / |x| is multiplied by it    input_layernorm.weight f32[D]
    self_attn.q_proj.weight f32[H d, D]    k_proj, v_proj f32[G d, D]    o_proj f32[D, H d]
    token_ids i32[M], ascending: the tokens that are drafted; absent where it is the whole vocabulary
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.files.rope import BASES, rope_table
from outpace.files.safetensors import FolderWeights
from outpace.heads.file import read_token_ids
from outpace.heads.folder import HeadConfig, Tensors, read_tensors, write_folder

METHOD = "early_exit"
MAX_LAYERS = 1 << 10


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What a folder of an adapter says of itself.

    layers       E, the layers of the model before it.
    hidden_size  D, width of the model's states.
    rms_eps      of both norms, the model's.
    target       fingerprint of the model that it was trained on.
    model        what that was called, for error messages.
    """

    layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    target: str
    rms_eps: float = 1e-5
    rope_theta: float = 10000.0
    model: str = ""

    @property
    def tap(self) -> str:
        """Where a whole call shows the states x."""
        return str(self.layers - 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that every folder has."""
        d, q, kv = self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "exit_norm.weight": (d,),
            "input_layernorm.weight": (d,),
            "self_attn.q_proj.weight": (q, d),
            "self_attn.k_proj.weight": (kv, d),
            "self_attn.v_proj.weight": (kv, d),
            "self_attn.o_proj.weight": (d, q),
        }

    def inv_freq(self) -> NDArray[np.float32]:
        """f32[d / 2], of the rotary positions."""
        return rope_table(self.head_dim, self.rope_theta, context_length=1)[0]


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """Config, f32 tensors by name, and the drafted tokens i32[M] (None: all)."""

    config: AdapterConfig
    tensors: Tensors
    token_ids: NDArray[np.int32] | None

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"
        assert self.token_ids is None or self.token_ids.ndim == 1, "a list of tokens"


def read_adapter(folder: str | Path) -> AdapterWeights:
    """The adapter in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, f"outpace train {METHOD}")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    ids = read_token_ids(found.folder, weights)
    return AdapterWeights(config, read_tensors(weights, config.shapes(), found.folder), ids)


def write_adapter(folder: str | Path, adapter: AdapterWeights) -> None:
    """Write a folder, each file whole or not at all."""
    ids = adapter.token_ids
    more = {} if ids is None else {"token_ids": np.ascontiguousarray(ids, np.int32)}
    write_folder(folder, METHOD, asdict(adapter.config), adapter.tensors, **more)


def read_config(found: HeadConfig) -> AdapterConfig:
    """The fields of a config.json, every one checked."""
    attention: dict[str, Any] = found.heads_of_attention()
    return AdapterConfig(
        layers=found.size("layers", 1, MAX_LAYERS),
        hidden_size=found.size("hidden_size"),
        target=found.fingerprint(),
        rms_eps=found.number("rms_eps", 1e-20, 1.0),
        rope_theta=found.number("rope_theta", *BASES),
        model=found.model,
        **attention,
    )
