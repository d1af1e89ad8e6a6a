"""Rules: one per file. The table is the list."""

from __future__ import annotations

from outpace.core.registry import Registry

RULES = Registry("rule", {"match": "outpace.rules.match:Match"}, "outpace.rules")
