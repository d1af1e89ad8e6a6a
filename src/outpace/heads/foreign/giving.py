"""Heads of ours in the layouts of others, for their engines: every weight keeps its bits.

    EAGLE-3, DFlash, DSpark layers  speculators' layout, with d2t and t2d where not all tokens are drafted
    an EAGLE-1, 2 layer             its authors' layout, without the target's embedding
    Medusa heads                    vLLM's layout, which is ours without the fields that others do not know

A speculators layer whose queries have a bias has one behind the attention too; ours has none, and zeros are
written there.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import FormatError, OutpaceError
from outpace.files.raw import RawTensors
from outpace.files.safetensors_writer import ITEM_BYTES, TensorBytes, bytes_of
from outpace.heads.dflash import METHOD as DFLASH
from outpace.heads.dflash import DFlashConfig, layer_name
from outpace.heads.eagle import LAYER, EagleConfig
from outpace.heads.eagle import METHOD as EAGLE
from outpace.heads.file import read_token_ids
from outpace.heads.foreign.doctor import own_faults
from outpace.heads.foreign.layout import brief_faults
from outpace.heads.foreign.recognise import recognise
from outpace.heads.foreign.speculators import dflash_config, eagle3_config, layer_config, verifier_of
from outpace.heads.foreign.taking import check_new, write_heads
from outpace.heads.medusa import METHOD as MEDUSA
from outpace.heads.medusa import MedusaConfig
from outpace.progress import Progress

EXPORTED = f"{EAGLE}, {DFLASH}, {MEDUSA}"
# What an engine has to be told, or refuses; as measured with vLLM 0.32.
SOME_TOKENS = (
    "vLLM 0.32 reads heads of some tokens with --model-loader-extra-config "
    "'{\"enable_weights_track\": false}' alone"
)
OWN_OF_SOME = (
    "vLLM 0.32 reads no heads of some tokens with output matrices of their own; accepted are those of "
    "outpace train medusa with --outputs shared or --tokens 0"
)
OURS = ("target", "model")  # fields that others do not know


@dataclass(frozen=True, slots=True)
class Given:
    """What was written, and what there is to know of it."""

    what: str
    notes: tuple[str, ...] = ()


def give_out(
    folder: str | Path,
    output: Path,
    *,
    target_name: str = "",
    vocab_size: int = 0,
    architecture: str = "",
    progress: Progress | None = None,
) -> Given:
    """Write a folder of another layout from one of ours; returns what that is.

    output        a new folder, or an empty one.
    target_name   what others call the model; "" for the name in the folder.
    vocab_size    V of the model, 0 for what the folder says.
    architecture  of the model, one of ours; "" where it is not known.

    FormatError where the folder is damaged; OutpaceError for heads that no other layout holds.
    """
    found = recognise(folder)
    if not found.method:
        raise FormatError(f"{found.folder} is no folder of Outpace, accepted are heads of {EXPORTED}")
    if found.method not in (EAGLE, DFLASH, MEDUSA):
        raise FormatError(
            f"{found.folder} holds heads of the method {found.method!r}, which no other engine reads; "
            f"accepted are {EXPORTED}"
        )
    config, weights, faults = own_faults(found)
    if faults:
        raise FormatError(f"{found.folder}: {brief_faults(faults)}")
    assert isinstance(config, EagleConfig | DFlashConfig | MedusaConfig), "the methods that are given out"
    if vocab_size and config.vocab_size not in (0, vocab_size):
        raise FormatError(
            f"{found.folder} is for a model of {config.vocab_size} tokens and this one has {vocab_size}; "
            "accepted is its own model"
        )
    check_new(output)
    tensors = {name: _as_it_is(weights, name) for name in weights.tensors}
    if isinstance(config, MedusaConfig):
        fields = {name: value for name, value in asdict(config).items() if name not in OURS}
        write_heads(output, {"model_type": MEDUSA} | fields, tensors, progress)
        return Given("Medusa heads, vLLM's layout", _medusa_notes(config))
    vocab_size = vocab_size or config.vocab_size
    if not vocab_size:
        raise OutpaceError(
            f"{found.folder} does not say how many tokens its model has; accepted is --model MODEL beside it"
        )
    if isinstance(config, EagleConfig) and not config.is_third:
        write_heads(output, original_config(config, vocab_size, tensors), tensors, progress)
        return Given("EAGLE-1 or 2 layer, original layout")
    verifier = verifier_of(target_name or config.model, architecture)
    if isinstance(config, EagleConfig):
        what, layers = "EAGLE-3 layer", [LAYER]
        fields = eagle3_config(config, vocab_size, tensors, verifier)
    else:
        fields = dflash_config(config, tensors, verifier)
        what = "DSpark layers" if fields["speculators_model_type"] == "dspark" else "DFlash layers"
        layers = [layer_name(number) for number in range(config.num_layers)]
    if config.qkv_bias:
        for stem in layers:
            kind = tensors[f"{stem}self_attn.q_proj.bias"].type_name
            zeros = np.zeros(config.hidden_size * ITEM_BYTES[kind], np.uint8)
            tensors[f"{stem}self_attn.o_proj.bias"] = TensorBytes(kind, (config.hidden_size,), zeros)
    ids = read_token_ids(found.folder, weights)
    if ids is not None:
        if ids[-1] >= vocab_size:
            raise FormatError(
                f"{found.folder} drafts the token {ids[-1]}, accepted are 0 to {vocab_size - 1}"
            )
        del tensors["token_ids"]
        if len(ids) < vocab_size:
            tensors |= _maps(ids, vocab_size)
    write_heads(output, fields, tensors, progress)
    return Given(f"{what}, speculators layout")


def _maps(ids: NDArray[np.int32], vocab_size: int) -> dict[str, TensorBytes]:
    """d2t: token id less the number of its row. t2d: which tokens have a row."""
    drafted = np.zeros(vocab_size, np.bool_)
    drafted[ids] = True
    offsets = ids.astype(np.int64) - np.arange(len(ids))
    return {"d2t": bytes_of(offsets, "I64"), "t2d": bytes_of(drafted, "BOOL")}


def original_config(config: EagleConfig, vocab_size: int, tensors: dict[str, TensorBytes]) -> dict[str, Any]:
    """The config.json of EAGLE's authors."""
    layer = layer_config(config, vocab_size, tensors)
    return {
        "architectures": ["LlamaForCausalLM"],
        **layer,
        "bias": config.fc_bias,
        "qkv_bias": config.qkv_bias,
    }


def _medusa_notes(config: MedusaConfig) -> tuple[str, ...]:
    if config.truncated_vocab_size == config.vocab_size:
        return ()
    return (SOME_TOKENS if config.original_lm_head else OWN_OF_SOME,)


def _as_it_is(weights: RawTensors, name: str) -> TensorBytes:
    tensor = weights.tensors[name]
    return TensorBytes(tensor.type_name, tensor.shape, weights.rows(tensor))
