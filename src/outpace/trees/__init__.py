"""Tree policies: where a model-based drafter spends its budget. One per file; the table is the list.

A constructor may name `costs`, a function () -> CallCosts of the target.
"""

from __future__ import annotations

from outpace.core.registry import Registry

TREES = Registry(
    "tree",
    {
        "chain": "outpace.trees.chain:Chain",
        "static": "outpace.trees.static:Static",
        "dynamic": "outpace.trees.dynamic:Dynamic",
        "sequoia": "outpace.trees.sequoia:Sequoia",
        "opt_tree": "outpace.trees.opt_tree:OptTree",
        "c2t": "outpace.trees.c2t:c2t",
        "survival": "outpace.trees.survival:survival",
    },
    "outpace.trees",
)
