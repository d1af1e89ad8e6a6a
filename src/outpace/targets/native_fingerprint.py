"""A name for a packed model's weights that does not depend on the machine or on how they are packed.

SHA-256 over the numbers of the configuration that shape a result, and over every vector and the first rows
of every matrix as floats. Sources of the same numbers (a GGUF file and a folder in f32) have the same name;
the same model in another precision has another.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from outpace.files.packing import TILE

if TYPE_CHECKING:
    from outpace.files.config import ModelConfig
    from outpace.files.packed import PackedFile

_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "layer_rope",
    "layer_window",
)
_NUMBERS = ("rms_eps", "attention_scale", "embedding_scale", "rope_scale", "rope_inv_freq")


def fingerprint(config: ModelConfig, weights: PackedFile) -> str:
    """ "sha256:" and the digest in hex."""
    from outpace import _native

    digest = hashlib.sha256()
    # Only where there are any, so that models without have the name that they had.
    loops = [name for name in ("layer_order", "loop_norm") if getattr(config, name)]
    facts = [f"{name}={getattr(config, name)}" for name in (*_COUNTS, "activation", *loops)]
    digest.update("\n".join(facts).encode())
    for name in _NUMBERS:
        digest.update(name.encode() + np.asarray(getattr(config, name), "<f4").tobytes())
    buffer = np.asarray(weights.buffer)
    for name, tensor in sorted(weights.tensors.items()):
        digest.update(f"\n{name} {tensor.rows}x{tensor.cols}\n".encode())
        if tensor.tile_bytes:
            tile = buffer[tensor.offset : tensor.offset + tensor.tile_bytes]
            first = _native.unpack(tensor.kind, min(tensor.rows, TILE), tensor.cols, tile)
            digest.update(first.astype("<f4", copy=False).tobytes())
        else:
            digest.update(buffer[tensor.offset : tensor.offset + tensor.nbytes].tobytes())
    return f"sha256:{digest.hexdigest()}"
