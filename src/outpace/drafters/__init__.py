"""Drafters: one method per file. The table is the list."""

from __future__ import annotations

from outpace.core.registry import Registry

DRAFTERS = Registry(
    "drafter",
    {"none": "outpace.drafters.none:NoDraft", "ngram": "outpace.drafters.ngram:NGram"},
    "outpace.drafters",
)
