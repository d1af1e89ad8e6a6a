"""Hermes, Qwen2.5, Qwen3, SmolLM3, Granite 4: an object between <tool_call> and </tool_call>, for each call.

https://github.com/NousResearch/Hermes-Function-Calling, https://huggingface.co/Qwen/Qwen3-8B (chat_template)
"""

from __future__ import annotations

from typing import ClassVar

from outpace.server.tools.call_objects import ObjectReader
from outpace.server.tools.format import Format, Schemas, json_calls
from outpace.server.tools.lark import Lark

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesReader(ObjectReader):
    """Also takes a list between the two, and calls whose end is missing."""

    openers: ClassVar[tuple[str, ...]] = (OPEN,)
    closers = (CLOSE,)


class Hermes(Format):
    """See above."""

    name = "hermes"
    markers = (OPEN, CLOSE)
    reader = HermesReader

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format."""
        call = json_calls(lark, schemas)
        one = lark.rule(" ".join((lark.literal(f"{OPEN}\n"), call, lark.literal(f"\n{CLOSE}"))))
        return lark.several(one, "\n") if parallel else one
