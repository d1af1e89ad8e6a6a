"""Targets: the model being accelerated, one kind per file. The table is the list."""

from __future__ import annotations

from outpace.core.registry import Registry

TARGETS = Registry(
    "target",
    {"native": "outpace.targets.native:NativeTarget", "table": "outpace.targets.table:TableTarget"},
    "outpace.targets",
)
