"""Tree policies: where a model-based drafter spends its budget. One per file; the table is the list."""

from __future__ import annotations

from outpace.core.registry import Registry

TREES = Registry("tree", {"chain": "outpace.trees.chain:Chain"}, "outpace.trees")
