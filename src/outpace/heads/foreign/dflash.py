"""DFlash and DSpark layers in the layouts of others: of their authors, and of speculators.

Original (z-lab's DFlash, DeepSpec's DSpark): a Qwen3's config.json with `num_hidden_layers` of the draft, and

    block_size, mask_token_id, target_layer_ids   here or in `dflash_config`; id t is the output of layer t
    is_causal        of all layers; without it sliding layers are causal within the block and others are not
    layer_types, sliding_window                   what each layer sees
    markov_rank, markov_head_type                 DSpark's Markov head

speculators: `speculators_model_type` dflash or dspark, the layers' config in `transformer_layer_config`,
`aux_hidden_state_layer_ids`, of which id i is the output of layer i - 1, and `draft_vocab_size`: fewer tokens
than the target's have lm_head.weight [M, D], d2t and t2d, as in EAGLE-3. Sliding layers are causal within the
block unless `sliding_window_non_causal` is true.

`sample_from_anchor`: the root's own slot drafts too. Where it is not said, a proposal of as many tokens as
the block has slots, or one less, says it; else it is true for DSpark and false for DFlash.

The tensors have our names (`heads/dflash.py`), maybe with a prefix `model.`. The target's own (embed_tokens,
verifier_*, an lm_head of all tokens) and a confidence head are known and not read. Newer kinds (DFlash2,
Domino) have the same fields and other tensors; they are named, and not run.
"""

from __future__ import annotations

from typing import Any

from outpace.core.errors import FormatError
from outpace.files.raw import RawTensors
from outpace.heads.decoder_layer import check_rope
from outpace.heads.dflash import MAX_BLOCK, MAX_LAYERS, OUTPUT, DFlashConfig, layer_name
from outpace.heads.foreign.fields import Fields
from outpace.heads.foreign.layout import Fault, Layout, Wanted, is_zero, plain_names
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

PREFIXES = {"model.": ""}
ORIGINALS = ("DFlashDraftModel", "Qwen3DSparkModel", "DSparkDraftModel")
OF_DFLASH2 = ("attention_conv", "candidate_selector")
HEAD, CONFIDENCE = "lm_head.weight", "confidence_head."
ANCHOR = "sample_from_anchor"
KINDS = {"full_attention": False, "sliding_attention": True}
HEAD_TYPES = ("vanilla", "gated", "rnn")
USUAL_BLOCK, USUAL_SPECULATORS_BLOCK = 16, 8


def is_original(fields: Fields) -> bool:
    """Whether it may be a folder of DFlash's or DSpark's authors."""
    if any(name in ORIGINALS for name in fields.texts("architectures")):
        return True
    inner = fields.within("dflash_config")
    return all(_holder(fields, inner, n).get(n) is not None for n in ("block_size", "mask_token_id"))


def newer(weights: RawTensors | None) -> str:
    """What kind of layers these tensors are that nobody here runs; "" for none of these."""
    names = weights.tensors if weights is not None else ()
    return "DFlash2 layers" if any(mark in name for name in names for mark in OF_DFLASH2) else ""


def original(fields: Fields, weights: RawTensors | None) -> Layout:
    """A folder of DFlash's or DSpark's authors; weights None: they are not looked at."""
    architectures, inner = fields.texts("architectures"), fields.within("dflash_config")
    if architectures and not any(name in ORIGINALS for name in architectures):
        raise fields.fault("architectures", f"are {', '.join(ORIGINALS)}")
    is_dspark = any("DSpark" in name for name in architectures) or fields.get("markov_rank") is not None
    what = "DSpark" if is_dspark else "DFlash"
    windows, sliding = _windows(fields)
    says = fields.get("is_causal") is not None
    causal = tuple(fields.flag("is_causal") if says else slides for slides in sliding)
    config = {
        "taps": tapped_layers(_holder(fields, inner, "target_layer_ids"), "target_layer_ids", 0),
        "causal": causal,
        "windows": windows,
    }
    held = _holder(fields, inner, "block_size"), _holder(fields, inner, "mask_token_id")
    return _layout(f"{what} layers, original layout", fields, fields, held, config, weights, is_dspark)


def speculators(fields: Fields, weights: RawTensors | None) -> Layout:
    """A folder of speculators; weights None: they are not looked at."""
    layer = fields.within("transformer_layer_config", needed=True)
    layer.one_of("model_type", ("qwen3",))
    is_dspark = fields.get("speculators_model_type") == "dspark"
    windows, sliding = _windows(layer)
    both_ways = fields.flag("sliding_window_non_causal")
    ids = "aux_hidden_state_layer_ids"
    config = {
        "taps": tapped_layers(fields, ids, 1),
        "causal": tuple(slides and not both_ways for slides in sliding),
        "windows": windows,
    }
    what = f"{'DSpark' if is_dspark else 'DFlash'} layers, speculators layout"
    return _layout(what, fields, layer, (fields, fields), config, weights, is_dspark)


def _holder(outer: Fields, inner: Fields, name: str) -> Fields:
    """Where a field stands: in `inner` if it stands there alone."""
    if inner.get(name) is None:
        return outer
    if outer.get(name) is not None and outer.get(name) != inner.get(name):
        raise outer.fault(name, f"is what dflash_config has, {inner.get(name)!r:.40}")
    return inner


def _windows(layer: Fields) -> tuple[tuple[int, ...], list[bool]]:
    """(how many tokens each layer sees, 0 for all; whether it slides)."""
    count, kinds = layer.size("num_hidden_layers", most=MAX_LAYERS), layer.get("layer_types")
    if kinds is None and not layer.flag("use_sliding_window"):
        return (0,) * count, [False] * count
    if not isinstance(kinds, list) or len(kinds) != count or not all(one in [*KINDS] for one in kinds):
        raise layer.fault("layer_types", f"are {' or '.join(KINDS)} for each of {count} layers")
    sliding = [KINDS[kind] for kind in kinds]
    window = layer.size("sliding_window") if any(sliding) else 0
    return tuple(window if slides else 0 for slides in sliding), sliding


def _markov(fields: Fields) -> dict[str, Any]:
    kind = fields.text("markov_head_type") or HEAD_TYPES[0]
    if kind not in HEAD_TYPES:
        raise fields.fault("markov_head_type", f"are {', '.join(HEAD_TYPES)}")
    if fields.get("markov_rank") in (None, 0):
        return {}
    return {"markov": kind, "rank": fields.size("markov_rank")}


def _only_plain(fields: Fields) -> None:
    """Refuses what newer layers do to embeddings and logits."""
    for name in ("input_embedding_scale", "output_multiplier"):
        fields.one_of(name, (1, 1.0))
    if fields.get("final_logit_softcapping") is not None:
        raise fields.fault("final_logit_softcapping", "is null")


def _layout(
    what: str,
    fields: Fields,
    layer: Fields,
    held: tuple[Fields, Fields],
    config: dict[str, Any],
    weights: RawTensors | None,
    is_dspark: bool,
) -> Layout:
    """held: where the size of a block and the mask stand. layer: where the layers' fields do."""
    for one in (fields, layer, fields.within("dflash_config")):
        _only_plain(one)
    fields.one_of("projector_type", ("dflash", "dspark"))
    names, vocab_size = plain_names(weights, PREFIXES), layer.size("vocab_size")
    values = layer_values(layer, names, layer_name(0))
    del values["qk_norm"]  # they always have them
    fields.one_of("target_hidden_size", (values["hidden_size"],))
    block, mask = held
    usual = USUAL_BLOCK if layer is fields else USUAL_SPECULATORS_BLOCK
    block_size = block.size("block_size", usual, MAX_BLOCK)
    from_root, unsaid = _from_root(fields, block_size, is_dspark)
    if block_size == 1 and not from_root:
        raise block.fault("block_size", f"are whole numbers from 2 to {MAX_BLOCK}")
    count = fields.size("draft_vocab_size", vocab_size, vocab_size)
    made = DFlashConfig(
        block_size=block_size,
        mask_token_id=_mask(mask, vocab_size),
        from_root=from_root,
        num_tokens=count if count < vocab_size or _is_shuffled(names, weights) else 0,
        target="",
        vocab_size=vocab_size,
        **config,
        **values,
        **(_markov(fields) if is_dspark else {}),
    )
    check_rope(made, fields.path)
    wanted = {name: Wanted(names.get(name, name), shape) for name, shape in made.shapes().items()}
    known, notes = _left_out(made, names, weights)
    notes += unsaid
    ids, faults = None, list[Fault]()
    if made.num_tokens and weights is not None:
        try:
            ids, rows = drafted(count, vocab_size, names, weights)
        except FormatError as error:
            faults.append(("wrong tokens", str(error)))
        else:
            if rows is not None:
                wanted |= {name: with_rows(wanted[name], rows) for name in (HEAD, OUTPUT) if name in wanted}
                notes.append(IN_ORDER)
    return Layout(
        what, made, vocab_size, target_name(fields), wanted, ids, tuple(known), tuple(faults), tuple(notes)
    )  # fmt: skip


def _from_root(fields: Fields, block_size: int, is_dspark: bool) -> tuple[bool, list[str]]:
    """(whether the root's own slot drafts, what to say if that is taken from nowhere)."""
    holder = _holder(fields, fields.within("dflash_config"), ANCHOR)
    if holder.get(ANCHOR) is not None:
        return holder.flag(ANCHOR), []
    proposals = fields.within("speculators_config").get("proposal_methods")
    for one in proposals if isinstance(proposals, list) else ():
        tokens = one.get("speculative_tokens") if isinstance(one, dict) else None
        if tokens in (block_size, block_size - 1):
            return tokens == block_size, []
    is_mixed = is_dspark and "DFlashDraftModel" in fields.texts("architectures")
    # Layers of both habits go by this name.
    note = f"{ANCHOR} is not said and taken as true: if few drafts are kept, try false in config.json"
    return is_dspark, [note] if is_mixed else []


def _mask(holder: Fields, vocab_size: int) -> int:
    value = holder.get("mask_token_id")
    if type(value) is not int or not 0 <= value < vocab_size:
        accepted = f"are rows of the target's input embedding, padding included: 0 to {vocab_size - 1}"
        raise holder.fault("mask_token_id", accepted)
    return value


def _is_shuffled(names: dict[str, str], weights: RawTensors | None) -> bool:
    """Whether there are offsets d2t that say anything: then the output matrix is no copy of the target's."""
    return weights is not None and "d2t" in names and not is_zero(weights, weights.tensors[names["d2t"]])


def _left_out(
    config: DFlashConfig, names: dict[str, str], weights: RawTensors | None
) -> tuple[list[str], list[str]]:
    """(names in the file that nobody reads and that are known; what to say of them)."""
    known, notes = computed(names), list[str]()
    maps = [names[name] for name in ("d2t", "t2d") if name in names]
    own = [given for name, given in names.items() if name == EMBEDDING or name.startswith("verifier_")]
    if not config.num_tokens and weights is not None and HEAD in names:
        if weights.tensors[names[HEAD]].shape == (config.vocab_size, config.hidden_size):
            own.append(names[HEAD])
    if own:
        notes.append(f"{', '.join(own)}: the target's own, of {config.vocab_size} tokens, not read")
    confidence = [given for name, given in names.items() if name.startswith(CONFIDENCE)]
    if confidence:
        notes.append(f"{', '.join(confidence)}: a confidence head, not read; drafts end by probabilities")
    biases = zeros(weights, names, "self_attn.o_proj.bias")
    if biases:
        notes.append(f"{', '.join(biases)}: zeros, not read")
    return [*known, *maps, *own, *confidence, *biases], notes
