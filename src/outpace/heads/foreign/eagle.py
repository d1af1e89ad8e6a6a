"""EAGLE layers in the layouts of others: EAGLE-1, 2 and 3 of their authors, EAGLE-3 of speculators.

Original (the folders that EAGLE's authors publish): a config.json as of a Llama model of one layer.

    EAGLE-1, 2   fc.weight [D, 2 D], fc.bias where `bias` is true; layers.0.* without an input_layernorm
    EAGLE-3      `draft_vocab_size`: M of V tokens are drafted; fc.weight [D, 3 D]; midlayer.* or layers.0.*
                 with an attention that reads 2 D; norm.weight, lm_head.weight [M, D]
                 d2t i64[M]: token id less the number of its row; t2d bool[V]: which tokens have a row

speculators: the same tensors as layers.0.*; config.json has `speculators_model_type` eagle3, the layer's
config in `transformer_layer_config`, the target in `speculators_config.verifier`, and flags with our names.

A prefix `model.` may stand before names. `eagle_aux_hidden_state_layer_ids` are the layers that READ what is
tapped: id i is the output of layer i - 1, the tap i - 1 here. Without them they are 2, n // 2 and n - 3 of n
layers. Tensors of the target (embed_tokens, verifier_*) are known and not read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.raw import RawTensors
from outpace.files.rope import BASES
from outpace.heads.decoder_layer import check_rope
from outpace.heads.eagle import LAYER, EagleConfig
from outpace.heads.folder import HEAD_STEP, MAX_SIZE
from outpace.heads.foreign.fields import Fields
from outpace.heads.foreign.layout import (
    Fault,
    Layout,
    Wanted,
    in_order,
    is_zero,
    plain_names,
    said,
    whole_numbers,
)

IDS = "eagle_aux_hidden_state_layer_ids"
USUAL_LAYERS = "2, n // 2 and n - 3 of the target's n"
LEAST_LAYERS = 7  # such that the usual ones differ
MOST_TAPS = 16
PREFIXES = {"model.": "", "midlayer.": LAYER}
EMBEDDING, OUTPUT_BIAS = "embed_tokens.weight", LAYER + "self_attn.o_proj.bias"
THIRD_NAMES = ("d2t", "norm.weight", LAYER + "hidden_norm.weight", LAYER + "input_layernorm.weight")


def usual_taps(num_layers: int) -> tuple[str, ...]:
    """Those of a checkpoint that names none, for a target of so many layers; FormatError for too few."""
    if num_layers < LEAST_LAYERS:
        raise FormatError(
            f"the layer reads those that {USUAL_LAYERS} layers read, the model has {num_layers}; accepted "
            f"are {LEAST_LAYERS} layers or more"
        )
    return "1", str(num_layers // 2 - 1), str(num_layers - 4)


def is_original(fields: Fields, weights: RawTensors | None) -> bool:
    """Whether it may be a folder of EAGLE's authors: a Llama's config, and weights that are not a Llama's."""
    if fields.get("hidden_size") is None or fields.get("num_attention_heads") is None:
        return False
    if weights is None or fields.get("draft_vocab_size") is not None:
        return True
    names = plain_names(weights, PREFIXES)
    return "fc.weight" in names or not names.keys() & {"layers.1.mlp.up_proj.weight", THIRD_NAMES[-1]}


def original(fields: Fields, weights: RawTensors | None) -> Layout:
    """A folder of EAGLE's authors; weights None: they are not looked at."""
    names = plain_names(weights, PREFIXES)
    third = fields.get("draft_vocab_size") is not None or bool(names.keys() & set(THIRD_NAMES))
    vocab_size, config = fields.size("vocab_size"), _layer(fields, names)
    has_bias = "fc.bias" in names if fields.get("bias") is None else fields.flag("bias")
    config |= {"fc_bias": has_bias if not third else "fc.bias" in names}
    if not third:
        made = _made(fields, config | {"generation": "eagle", "taps": ("final",), "num_tokens": 0})
        return _layout("EAGLE-1 or 2 layer, original layout", fields, made, vocab_size, names, weights)
    return _third("EAGLE-3 layer, original layout", fields, config, vocab_size, names, weights)


def speculators(fields: Fields, weights: RawTensors | None) -> Layout:
    """A folder of speculators; weights None: they are not looked at."""
    names = plain_names(weights, PREFIXES)
    layer = fields.within("transformer_layer_config", needed=True)
    layer.one_of("model_type", ("llama", "qwen3"))
    vocab_size, config = layer.size("vocab_size"), _layer(layer, names)
    return _third("EAGLE-3 layer, speculators layout", fields, config, vocab_size, names, weights)


def _third(
    what: str,
    fields: Fields,
    config: dict[str, Any],
    vocab_size: int,
    names: dict[str, str],
    weights: RawTensors | None,
) -> Layout:
    width = config["hidden_size"]
    fields.one_of("target_hidden_size", (width,))
    flags = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
    config |= {
        "generation": "eagle3",
        "taps": _taps(fields),
        "num_tokens": fields.size("draft_vocab_size", vocab_size, vocab_size),
        # Some write them where others have the layers' numbers.
        **{name: fields.flag(name) or fields.within("eagle_config").flag(name) for name in flags},
    }
    return _layout(what, fields, _made(fields, config), vocab_size, names, weights)


def _layer(layer: Fields, names: dict[str, str]) -> dict[str, Any]:
    """Fields of ours from a Llama's or Qwen's config, and from which biases and norms there are."""
    layer.one_of("hidden_act", ("silu", "swish"))
    layer.one_of("num_hidden_layers", (1,))
    hidden_size, num_heads = layer.size("hidden_size"), layer.size("num_attention_heads")
    num_kv_heads = layer.size("num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise layer.fault("num_key_value_heads", f"are divisors of num_attention_heads, {num_heads}")
    head_dim = layer.size("head_dim", hidden_size // num_heads)
    if head_dim % HEAD_STEP or head_dim > 512:
        raise FormatError(
            f"{layer.path}: a head's width is {head_dim}, accepted are multiples of {HEAD_STEP} up to 512"
        )
    scaling = layer.table("rope_scaling") or layer.table("rope_parameters")
    within = Fields(layer.path, scaling, "rope_scaling.")
    within.one_of("partial_rotary_factor", (1, 1.0))
    theta = within.number("rope_theta", layer.number("rope_theta", 10000.0, *BASES), *BASES)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    kept = {name: value for name, value in scaling.items() if name != "rope_theta"}
    stem = LAYER + "self_attn."
    return {
        "hidden_size": hidden_size,
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_size": layer.size("intermediate_size"),
        "rms_eps": layer.number("rms_norm_eps", 1e-6, 1e-20, 1.0),
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else kept,
        "rope_length": min(layer.size("max_position_embeddings", 2048, 1 << 40), MAX_SIZE),
        "qkv_bias": layer.flag("attention_bias") or layer.flag("qkv_bias") or f"{stem}q_proj.bias" in names,
        "qk_norm": layer.get("model_type") == "qwen3" or f"{stem}q_norm.weight" in names,
    }


def _taps(fields: Fields) -> tuple[str, ...]:
    """Empty texts where no layer is named."""
    holder = next((f for f in (fields, fields.within("eagle_config")) if f.get(IDS) is not None), None)
    if holder is None:
        return ("",) * 3
    ids = holder.get(IDS)
    if (
        not isinstance(ids, list)
        or not 1 <= len(ids) <= MOST_TAPS
        or not all(type(one) is int and 1 <= one <= MAX_SIZE for one in ids)
        or ids != sorted(set(ids))
    ):
        raise holder.fault(IDS, f"are 1 to {MOST_TAPS} ascending numbers of layers, 1 or more")
    return tuple(str(one - 1) for one in ids)


def _made(fields: Fields, config: dict[str, Any]) -> EagleConfig:
    made = EagleConfig(**config, target="")
    check_rope(made, fields.path)
    return made


def _layout(
    what: str,
    fields: Fields,
    config: EagleConfig,
    vocab_size: int,
    names: dict[str, str],
    weights: RawTensors | None,
) -> Layout:
    wanted = {name: Wanted(names.get(name, name), shape) for name, shape in config.shapes().items()}
    known = [given for name, given in names.items() if name.endswith("rotary_emb.inv_freq")]
    own = [given for name, given in names.items() if name == EMBEDDING or name.startswith("verifier_")]
    notes = [f"{', '.join(own)}: the target's own, not read"] if own else []
    if weights is not None and OUTPUT_BIAS in names and is_zero(weights, weights.tensors[names[OUTPUT_BIAS]]):
        known.append(names[OUTPUT_BIAS])
        notes.append(f"{names[OUTPUT_BIAS]}: zeros, not read")
    ids, faults = None, list[Fault]()
    if config.is_third and weights is not None:
        known += [names[name] for name in ("d2t", "t2d") if name in names]
        try:
            ids, rows = _drafted(config, vocab_size, names, weights)
        except FormatError as error:
            faults.append(("wrong tokens", str(error)))
        else:
            if rows is not None:
                wanted["lm_head.weight"] = Wanted(*_place(wanted["lm_head.weight"]), rows)
                notes.append("drafted tokens are not in order: they are sorted, with their rows")
    return Layout(
        what, config, vocab_size, _target(fields), wanted, ids, (*known, *own), tuple(faults), tuple(notes)
    )


def _drafted(
    config: EagleConfig, vocab_size: int, names: dict[str, str], weights: RawTensors
) -> tuple[np.ndarray, np.ndarray | None]:
    """(token ids i64[M], ascending; the rows of the output matrix in that order, None as they lie)."""
    count = config.num_tokens
    if "d2t" not in names:
        if count < vocab_size:
            raise FormatError(f"the tensor d2t is missing, expected I64[{count}]")
        return np.arange(count), None
    tensor = weights.tensors[names["d2t"]]
    offsets = whole_numbers(weights, tensor, count)
    if offsets is None:
        raise FormatError(f"{said(tensor)}, expected I64[{count}]")
    # Out of this range no sum is a token, and it may not be a number of 64 bits.
    ids, rows = in_order(np.arange(count) + offsets.clip(-vocab_size - count, vocab_size), vocab_size)
    if "t2d" in names:
        mask = weights.tensors[names["t2d"]]
        if mask.type_name != "BOOL" or mask.shape != (vocab_size,) or mask.nbytes != vocab_size:
            raise FormatError(f"{said(mask)}, expected BOOL[{vocab_size}]")
        if not np.array_equal(np.flatnonzero(weights.rows(mask).reshape(-1)), ids):
            raise FormatError("t2d and d2t name different tokens")
    return ids, rows


def _place(wanted: Wanted) -> tuple[str, tuple[int, ...]]:
    return wanted.name, wanted.shape


def _target(fields: Fields) -> str:
    """What the checkpoint calls its target."""
    verifier = fields.within("speculators_config").within("verifier")
    return verifier.text("name_or_path") or fields.text("base_model_name_or_path")
