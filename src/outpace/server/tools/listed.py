"""Granite 3 and Phi-4-mini: a marker and a list of objects; Phi-4-mini closes it.

https://www.ibm.com/granite/docs/models/granite (<|tool_call|>, where some write <tool_call>),
https://huggingface.co/microsoft/Phi-4-mini-instruct (<|tool_call|>, or `functools` in Microsoft's cookbook)
"""

from __future__ import annotations

from typing import ClassVar

from outpace.server.tools.call_objects import ObjectReader
from outpace.server.tools.format import Format, Schemas, json_calls
from outpace.server.tools.lark import Lark

OPEN, CLOSE = "<|tool_call|>", "<|/tool_call|>"


class ListReader(ObjectReader):
    """Also takes an object without its list."""

    openers = (OPEN, "<tool_call>")
    closers = (CLOSE, "</tool_call>")


class FunctoolsReader(ListReader):
    """The word of Microsoft's cookbook in place of a marker."""

    openers = (OPEN, "functools")


class Granite(Format):
    """See above."""

    name = "granite"
    markers: ClassVar[tuple[str, ...]] = (OPEN, CLOSE, "<tool_call>", "</tool_call>")
    reader = ListReader
    around: ClassVar[tuple[str, str]] = (f"{OPEN}[", "]")

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format."""
        call = json_calls(lark, schemas)
        several = lark.several(call, ", ") if parallel else call
        return f"{lark.literal(self.around[0])} {several} {lark.literal(self.around[1])}"


class Phi(Granite):
    """With its closing marker."""

    name = "phi"
    markers = (OPEN, CLOSE)
    around = (f"{OPEN}[", f"]{CLOSE}")


class Functools(Granite):
    """In plain text."""

    name = "functools"
    markers = ()
    reader = FunctoolsReader
    around = ("functools[", "]")
