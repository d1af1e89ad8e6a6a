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

from outpace.core.errors import FormatError
from outpace.files.raw import RawTensors
from outpace.heads.decoder_layer import check_rope
from outpace.heads.eagle import LAYER, EagleConfig
from outpace.heads.foreign.fields import Fields
from outpace.heads.foreign.layout import Fault, Layout, Wanted, plain_names
from outpace.heads.foreign.parts import (
    EMBEDDING,
    IN_ORDER,
    computed,
    drafted,
    layer_values,
    tapped_layers,
    target_name,
    with_rows,
    zeros,
)

IDS = "eagle_aux_hidden_state_layer_ids"
USUAL_LAYERS = "2, n // 2 and n - 3 of the target's n"
LEAST_LAYERS = 7  # such that the usual ones differ
PREFIXES = {"model.": "", "midlayer.": LAYER}
OUTPUT_BIAS = LAYER + "self_attn.o_proj.bias"
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
    layer.one_of("num_hidden_layers", (1,))
    return layer_values(layer, names, LAYER)


def _taps(fields: Fields) -> tuple[str, ...]:
    """Empty texts where no layer is named."""
    holder = next((f for f in (fields, fields.within("eagle_config")) if f.get(IDS) is not None), None)
    if holder is None:
        return ("",) * 3
    return tapped_layers(holder, IDS, 1)


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
    known = computed(names)
    own = [given for name, given in names.items() if name == EMBEDDING or name.startswith("verifier_")]
    notes = [f"{', '.join(own)}: the target's own, not read"] if own else []
    for given in zeros(weights, names, OUTPUT_BIAS):
        known.append(given)
        notes.append(f"{given}: zeros, not read")
    ids, faults = None, list[Fault]()
    if config.is_third and weights is not None:
        known += [names[name] for name in ("d2t", "t2d") if name in names]
        try:
            ids, rows = drafted(config.num_tokens, vocab_size, names, weights)
        except FormatError as error:
            faults.append(("wrong tokens", str(error)))
        else:
            if rows is not None:
                wanted["lm_head.weight"] = with_rows(wanted["lm_head.weight"], rows)
                notes.append(IN_ORDER)
    return Layout(
        what,
        config,
        vocab_size,
        target_name(fields),
        wanted,
        ids,
        (*known, *own),
        tuple(faults),
        tuple(notes),
    )
