"""DFlash: a few decoder layers make a block of tokens in one pass, with the target's states as their context.

What `outpace heads import` writes of DFlash (Chen et al. 2026, arXiv:2602.06036) and DSpark (DeepSeek 2026,
arXiv:2607.05147) layers, and the drafter `dflash` reads. Every committed token before the root has

    c = norm(W [x_1 .. x_T])                  of the target's states x at this very token, at T taps

and a block of B slots has e(root), e(mask), e(mask), ... of the target's input embedding. In each of N layers

    q  of norm(h);  k, v  of c of all tokens before the root, and of norm(h) of all slots of the block
    h' = h + W_o attention(q, k, v)           in both directions within the block, or causal
    h'' = h' + mlp(norm(h'))

and behind them logits = H norm(h), of M drafted tokens or, where the folder has no H, by the target's own
output matrix. Slot j says what stands j places behind the root, or j + 1 with `from_root`, where the root's
own slot drafts too.

A Markov head tells a slot of the token t before it, by rank r: logits += O m, with e = E[t] and

    vanilla   m = e
    gated     m = sigmoid(G [norm(h); e] + b) * e
    rnn       [a; u; m'] = J [s; e; norm(h)] + b       m = tanh(m')
              s' = sigmoid(a) * s + (1 - sigmoid(a)) * tanh(u)      s = 0 at the first slot that drafts

The folder's tensors (see `folder.py`) have the names of the checkpoints, and beside them token_ids i32[M],
ascending, in place of the offsets d2t.
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
from outpace.heads.folder import MAX_SIZE, HeadConfig, Tensors, read_tensors, write_folder

METHOD = "dflash"
MAX_LAYERS, MAX_BLOCK = 64, 128
Markov = Literal["none", "vanilla", "gated", "rnn"]
EMBEDDING, OUTPUT = "markov_head.markov_w1.weight", "markov_head.markov_w2.weight"
GATE, JOINT = "markov_head.gate_proj", "markov_head.joint_proj"


@dataclass(frozen=True, slots=True)
class DFlashConfig:
    """What a folder of DFlash layers says of itself.

    hidden_size    D, width of the layers and of the target's states.
    taps           those that are read: layers by number, the first 0, whose outputs they are; or "final".
    block_size     B, slots of a block. from_root: whether the root's own slot drafts.
    mask_token_id  what the other slots hold.
    causal         by layers: whether a slot sees none behind it. windows: how many tokens it sees; 0 for all.
    num_tokens     M, the tokens that are drafted; 0: all, by the target's output matrix.
    markov, rank   the Markov head, and r of it.
    rope_scaling   as in transformers; None for none.
    target         fingerprint of the model that it was trained on.
    model          what that was called, for error messages.
    vocab_size     V of that.
    """

    hidden_size: int
    taps: tuple[str, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    block_size: int
    mask_token_id: int
    causal: tuple[bool, ...]
    windows: tuple[int, ...]
    target: str
    vocab_size: int
    from_root: bool = False
    num_tokens: int = 0
    markov: Markov = "none"
    rank: int = 0
    rms_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    rope_length: int = 2048
    qkv_bias: bool = False
    model: str = ""

    @property
    def num_layers(self) -> int:
        """N."""
        return len(self.causal)

    @property
    def length(self) -> int:
        """How many tokens a block drafts."""
        return self.block_size - (not self.from_root)

    @property
    def qk_norm(self) -> bool:
        """They are Qwen3's layers."""
        return True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors that the folder has."""
        d, r = self.hidden_size, self.rank
        found: dict[str, tuple[int, ...]] = {
            "fc.weight": (d, len(self.taps) * d),
            "hidden_norm.weight": (d,),
            "norm.weight": (d,),
        }
        for number in range(self.num_layers):
            stem = layer_name(number)
            found |= layer_shapes(self, stem, d) | {stem + "input_layernorm.weight": (d,)}
        if self.num_tokens:
            found["lm_head.weight"] = (self.num_tokens, d)
        if self.markov != "none":
            found |= {EMBEDDING: (self.vocab_size, r), OUTPUT: (self.num_tokens or self.vocab_size, r)}
        if self.markov == "gated":
            found |= {f"{GATE}.weight": (r, d + r), f"{GATE}.bias": (r,)}
        if self.markov == "rnn":
            found |= {f"{JOINT}.weight": (3 * r, 2 * r + d), f"{JOINT}.bias": (3 * r,)}
        return found


def layer_name(number: int) -> str:
    """What the names of a layer's tensors begin with."""
    return f"layers.{number}."


@dataclass(frozen=True, slots=True)
class DFlashWeights:
    """Config, f32 tensors by name, and the drafted tokens i32[M]; None for all."""

    config: DFlashConfig
    tensors: Tensors
    token_ids: NDArray[np.int32] | None

    def __post_init__(self) -> None:
        shapes = {name: tensor.shape for name, tensor in self.tensors.items()}
        assert shapes == self.config.shapes(), f"tensors of shapes {shapes}, not {self.config.shapes()}"
        count = 0 if self.token_ids is None else len(self.token_ids)
        assert count == self.config.num_tokens, "an id for every drafted token"


def read_dflash(folder: str | Path) -> DFlashWeights:
    """The layers in a folder; FormatError where it is missing, truncated or something else."""
    found = HeadConfig(folder, METHOD, "outpace heads import")
    config = read_config(found)
    weights = FolderWeights(found.folder)
    ids = read_token_ids_of(found.folder, weights, config.num_tokens)
    return DFlashWeights(config, read_tensors(weights, config.shapes(), found.folder), ids)


def write_dflash(folder: str | Path, heads: DFlashWeights) -> None:
    """Write a folder, each file whole or not at all."""
    more = {} if heads.token_ids is None else {"token_ids": heads.token_ids}
    write_folder(folder, METHOD, asdict(heads.config), heads.tensors, **more)


def read_config(found: HeadConfig) -> DFlashConfig:
    """The fields of a config.json, every one checked."""
    taps, target, vocab_size = taps_field(found), found.fingerprint(), found.size("vocab_size")
    from_root, markov = flag_field(found, "from_root"), found.field("markov")
    if markov not in get_args(Markov):
        raise found.fault("markov", f"accepted are {', '.join(get_args(Markov))}")
    causal, windows = found.field("causal"), found.field("windows")
    if not isinstance(causal, list) or not 1 <= len(causal) <= MAX_LAYERS or {*map(type, causal)} != {bool}:
        raise found.fault("causal", f"expected true or false of each of 1 to {MAX_LAYERS} layers")
    if (
        not isinstance(windows, list)
        or len(windows) != len(causal)
        or not all(type(one) is int and 0 <= one <= MAX_SIZE for one in windows)
    ):
        raise found.fault("windows", f"expected a whole number from 0 to {MAX_SIZE} of each layer")
    config = DFlashConfig(
        taps=taps,
        block_size=found.size("block_size", 1 if from_root else 2, MAX_BLOCK),
        mask_token_id=found.size("mask_token_id", 0, vocab_size - 1),
        causal=tuple(causal),
        windows=tuple(windows),
        target=target,
        vocab_size=vocab_size,
        from_root=from_root,
        num_tokens=found.size("num_tokens", 0, vocab_size),
        markov=markov,
        rank=found.size("rank", 1) if markov != "none" else 0,
        qkv_bias=flag_field(found, "qkv_bias"),
        model=found.model,
        **layer_fields(found),
    )
    check_rope(config, found.folder)
    return config
