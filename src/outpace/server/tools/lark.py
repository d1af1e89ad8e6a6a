"""Grammars that force calls, in llguidance's dialect of Lark: literal text, special tokens, JSON by a schema.

https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from outpace.models.grammar import LAYOUT


class Lark:
    """Rules as they are collected; `text` is the whole grammar, whose first rule is `start`."""

    def __init__(self, special: Mapping[str, int]) -> None:
        """`special`: the ids of the special tokens among a family's markers, by their texts."""
        self._special = special
        self._rules: list[str] = []
        longest_first = sorted(special, key=len, reverse=True)
        self._cuts = re.compile("|".join(map(re.escape, longest_first))) if special else None

    def text(self, start: str) -> str:
        """The grammar whose start is this expression."""
        return "\n".join([f"start: {start}", *self._rules, ""])

    def literal(self, text: str) -> str:
        """An expression for a text; special tokens in it are their ids, which are no letters there."""
        parts, end = [], 0
        for found in self._cuts.finditer(text) if self._cuts else ():
            parts += [_quoted(text[end : found.start()]), f"<[{self._special[found[0]]}]>"]
            end = found.end()
        return " ".join(part for part in (*parts, _quoted(text[end:])) if part)

    def rule(self, expression: str, options: str = "") -> str:
        """The name of a new rule."""
        name = f"r{len(self._rules)}"
        self._rules.append(f"{name}{options}: {expression}")
        return name

    def json(self, schema: Mapping[str, Any]) -> str:
        """A rule for a JSON value by its schema, laid out as json.dumps does: models get lost in spaces."""
        return self.rule(f"%json {json.dumps({**schema, 'x-guidance': LAYOUT})}")

    def up_to(self, end: str) -> str:
        """A rule for any text and the first `end` behind it."""
        if end in self._special:
            return self.rule(f"/(.|\\n)*/ {self.literal(end)}")
        return self.rule("/(.|\\n)*/", f"[suffix={_quoted(end)}]")

    def one_of(self, expressions: Iterable[str]) -> str:
        """A rule for any one of these."""
        return self.rule(" | ".join(expressions))

    def several(self, one: str, between: str) -> str:
        """An expression for `one`, or more of them with a text between."""
        return f"{one} ({self.literal(between)} {one})*" if between else f"{one}+"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if text else ""
