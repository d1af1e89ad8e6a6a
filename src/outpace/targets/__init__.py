"""Targets: the model being accelerated, one kind per file. The table is the list."""

from __future__ import annotations

from outpace.core.registry import Registry

TARGETS = Registry(
    "target",
    {
        "hf_causal": "outpace.targets.hf_causal:HfCausalTarget",
        "hf_seq2seq": "outpace.targets.hf_seq2seq:HfSeq2SeqTarget",
        "native": "outpace.targets.native:NativeTarget",
        "pixel": "outpace.targets.pixel:PixelTarget",
        "table": "outpace.targets.table:TableTarget",
    },
    "outpace.targets",
)
