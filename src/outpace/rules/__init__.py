"""Rules: one per file. The table is the list."""

from __future__ import annotations

from outpace.core.registry import Registry

RULES = Registry(
    "rule",
    {
        # identical
        "match": "outpace.rules.match:Match",
        # the same law, another path
        "speculative": "outpace.rules.speculative:Speculative",
        "multi_draft": "outpace.rules.multi_draft:MultiDraft",
        "multi_draft_iid": "outpace.rules.multi_draft_iid:MultiDraftIid",
        "kseq": "outpace.rules.kseq:KSeq",
        "spechub": "outpace.rules.spechub:SpecHub",
        "block": "outpace.rules.block:Block",
        # lossy
        "topk": "outpace.rules.topk:TopK",
        "distance": "outpace.rules.distance:Distance",
        "min_block": "outpace.rules.min_block:MinBlock",
        "typical": "outpace.rules.typical:Typical",
    },
    "outpace.rules",
)
