"""Medusa heads in the layouts of others.

Original (FasterDecoding): config.json has `medusa_num_heads`, `medusa_num_layers`, `base_model_name_or_path`;
the weights are medusa_lm_head.safetensors, or .pt. For h from 0 to H - 1, l from 0 to L - 1:

    {h}.{l}.linear.weight [D, D]   {h}.{l}.linear.bias [D]   {h}.{L}.weight [V, D]

Published folders say fewer heads than they have: what the weights hold counts.

vLLM: `model_type` medusa, `num_heads`, `num_hidden_layers`, `hidden_size`, `vocab_size`; where they are
missing, `truncated_vocab_size` is the vocabulary's, `medusa_fc_bias` and `original_lm_head` are false, and
`logit_scale` is 1. The tensors are those of our own folders (`heads/medusa.py`), maybe with a prefix
`medusa_heads.`. `token_map` may be in any order, and output matrices may have a row for every token.
"""

from __future__ import annotations

import re

import numpy as np

from outpace.core.errors import FormatError
from outpace.files.raw import RawTensors
from outpace.heads.foreign.fields import Fields
from outpace.heads.foreign.layout import Fault, Layout, Wanted, in_order, plain_names, said, whole_numbers
from outpace.heads.medusa import LOGIT_SCALES, MAX_HEADS, MAX_LAYERS, SHARED, MedusaConfig

PREFIXES = {"medusa_heads.": ""}
MAP = "token_map"
_FIRST, _LAYER = (
    re.compile(r"(\d{1,2})\.\d+\.linear\.weight"),
    re.compile(r"blocks\.(\d+)\.layers\.(\d+)\.(.+)"),
)


def original(fields: Fields, weights: RawTensors | None) -> Layout:
    """A folder of FasterDecoding; weights None: they are not looked at. FormatError without any matrix."""
    said_heads = fields.size("medusa_num_heads", most=MAX_HEADS)
    layers = fields.size("medusa_num_layers", 1, MAX_LAYERS)
    names = plain_names(weights, PREFIXES)
    num_heads, width, vocab_size, notes = said_heads, 1, 1, []
    if weights is None:
        width, vocab_size = fields.size("hidden_size"), fields.size("vocab_size")
    else:
        num_heads = max([said_heads, *(int(found[1]) + 1 for n in names if (found := _FIRST.fullmatch(n)))])
        if num_heads > MAX_HEADS:
            raise FormatError(f"{fields.path.parent} has {num_heads} heads, accepted are up to {MAX_HEADS}")
        if num_heads > said_heads:
            notes.append(f"config.json says {said_heads} heads, the weights have {num_heads}: these count")
        ends = [f"{head}.{layers}.weight" for head in range(num_heads)]
        shapes = [weights.tensors[names[name]].shape for name in ends if name in names]
        if not shapes or len(shapes[0]) != 2 or not all(0 < size <= 1 << 20 for size in shapes[0]):
            raise FormatError(
                f"{fields.path.parent} has no output matrix {ends[0]}, of as many rows as there are tokens"
            )
        vocab_size, width = shapes[0]
    config = MedusaConfig(num_heads, layers, width, vocab_size, vocab_size, "")
    wanted = {}
    for name, shape in config.shapes().items():
        theirs = _original_name(name, layers)
        wanted[name] = Wanted(names.get(theirs, theirs), shape)
    target = fields.text("base_model_name_or_path")
    return Layout("Medusa heads, original layout", config, vocab_size, target, wanted, notes=tuple(notes))


def vllm(fields: Fields, weights: RawTensors | None) -> Layout:
    """A folder as vLLM reads it; weights None: they are not looked at."""
    vocab_size = fields.size("vocab_size")
    config = MedusaConfig(
        fields.size("num_heads", most=MAX_HEADS),
        fields.size("num_hidden_layers", 1, MAX_LAYERS),
        fields.size("hidden_size"),
        vocab_size,
        fields.size("truncated_vocab_size", vocab_size, vocab_size),
        "",
        original_lm_head=fields.flag("original_lm_head"),
        medusa_fc_bias=fields.flag("medusa_fc_bias"),
        logit_scale=fields.number("logit_scale", 1.0, *LOGIT_SCALES),
    )
    names = plain_names(weights, PREFIXES)
    count, width = config.truncated_vocab_size, config.hidden_size
    wanted = {name: Wanted(names.get(name, name), shape) for name, shape in config.shapes().items()}
    if config.original_lm_head:
        given = names.get(SHARED, names.get("lm_head.weight", SHARED))
        wanted[SHARED] = Wanted(given, (count, width))
    ids, rows, faults = None, None, list[Fault]()
    if weights is not None:
        try:
            ids, rows = _drafted(config, names, weights)
        except FormatError as error:
            faults.append(("wrong tokens", str(error)))
    for name, one in wanted.items():
        if not name.startswith("lm_heads.") or weights is None:
            continue
        tensor = weights.tensors.get(one.name)
        whole = tensor is not None and tensor.shape == (vocab_size, width) and count < vocab_size
        wanted[name] = (
            Wanted(one.name, (vocab_size, width), ids) if whole else Wanted(one.name, one.shape, rows)
        )
    notes = ("drafted tokens are not in order: they are sorted, with their rows",) if rows is not None else ()
    known = (names[MAP],) if MAP in names else ()
    target = fields.text("base_model_name_or_path")
    return Layout(
        "Medusa heads, vLLM's layout", config, vocab_size, target, wanted, ids, known, tuple(faults), notes
    )


def _original_name(name: str, layers: int) -> str:
    found = _LAYER.fullmatch(name)
    if found:
        return f"{found[1]}.{found[2]}.linear.{found[3]}"
    return f"{name.removeprefix('lm_heads.').removesuffix('.weight')}.{layers}.weight"


def _drafted(
    config: MedusaConfig, names: dict[str, str], weights: RawTensors
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(token ids i64[M], ascending, None for all; the rows in that order, None as they lie)."""
    count = config.truncated_vocab_size
    if MAP not in names:
        if count < config.vocab_size:
            raise FormatError(f"the tensor {MAP} is missing, expected I64[{count}]")
        return None, None
    tensor = weights.tensors[names[MAP]]
    ids = whole_numbers(weights, tensor, count)
    if ids is None:
        raise FormatError(f"{said(tensor)}, expected I64[{count}]")
    return in_order(ids, config.vocab_size)
