"""Llama 3.1 and 3.2, and templates of no known family: a JSON object, or a list of them, with nothing around.

Such a call begins where a line does, names a function that was offered, and has arguments. Llama may write
<|python_tag|> before it, and a semicolon between two.
https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/#json-based-tool-calling
"""

from __future__ import annotations

from outpace.server.tools.call_objects import ARGUMENTS, ObjectReader
from outpace.server.tools.format import Format, Schemas, json_calls
from outpace.server.tools.lark import Lark
from outpace.server.tools.reader import NoCall, Reading

PYTHON = "<|python_tag|>"
_MEMBERS = ("name", "type", "id", *ARGUMENTS)


class BareReader(ObjectReader):
    """Gives up at the first member that no call has, so that other JSON is held back for a few letters."""

    line_openers = "{["

    def _calls(self, opener: str) -> Reading[None]:
        yield from self._opened(opener)

    def _check_member(self, member: str) -> None:
        if member not in _MEMBERS:
            raise NoCall

    def _no_arguments(self) -> str:
        raise NoCall


class LlamaReader(BareReader):
    """With the tag, which says nothing more than the object itself."""

    openers = (PYTHON,)
    closers = (";",)

    def _calls(self, opener: str) -> Reading[None]:
        yield from self._opened((yield from self._after_space()) if opener == PYTHON else opener)


class Bare(Format):
    """Of a template that takes tools and whose family is not known."""

    name = "json"
    reader = BareReader

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format. Several calls are a list."""
        call = json_calls(lark, schemas)
        if not parallel:
            return call
        return f"{call} | {lark.literal('[')} {lark.several(call, ', ')} {lark.literal(']')}"


class Llama(Format):
    """Templates of Llama write one call in a turn."""

    name = "llama"
    markers = (PYTHON,)
    reader = LlamaReader

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format."""
        return json_calls(lark, schemas, arguments="parameters")
