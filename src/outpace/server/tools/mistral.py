"""Mistral: [TOOL_CALLS] and a list of objects, or, since 2025, a name, [ARGS] and an object for each call.

https://docs.mistral.ai/capabilities/function_calling, the templates of Mistral-7B-Instruct-v0.3 and of
Mistral-Small-3.2, where [CALL_ID] and an id may stand between. Ids have nine letters or digits.
"""

from __future__ import annotations

from outpace.server.tools.call_objects import ObjectReader
from outpace.server.tools.format import Format, Schemas, json_calls, letters
from outpace.server.tools.lark import Lark
from outpace.server.tools.reader import NoCall, Reading

CALLS, ARGS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
ID_LENGTH = 9


class MistralReader(ObjectReader):
    """Reads both forms, and a name with its object directly behind it."""

    openers = (CALLS,)

    def _calls(self, opener: str) -> Reading[None]:
        letter = yield from self._after_space()
        if letter in ("[", "{"):
            yield from self._opened(letter)
        else:
            self._put_back()
            yield from self._named()

    def _named(self) -> Reading[None]:
        name, letter = yield from self._until("[{")
        name = name.strip()
        if name not in self._schemas:
            raise NoCall
        if letter == "{":
            self._put_back()
        else:
            letter = yield from self._take()
            if letter == "C":
                yield from self._literal(CALL_ID[2:])
                yield from self._until("[")
                letter = yield from self._take()
            if letter != "A":
                raise NoCall
            yield from self._literal(ARGS[2:])
        yield from self._call(name)


class Mistral(Format):
    """A list."""

    name = "mistral"
    markers = (CALLS, ARGS, CALL_ID)
    reader = MistralReader

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format."""
        call = json_calls(lark, schemas)
        several = lark.several(call, ", ") if parallel else call
        return f"{lark.literal(CALLS + '[')} {several} {lark.literal(']')}"

    def new_id(self) -> str:
        """Of the only length that the templates take."""
        return letters(ID_LENGTH)


class MistralNamed(Mistral):
    """A name and its arguments."""

    name = "mistral-args"

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format."""
        options = [f"{lark.literal(name + ARGS)} {lark.json(schema)}" for name, schema in schemas.items()]
        call = lark.rule(f"{lark.literal(CALLS)} {lark.one_of(options)}")
        return lark.several(call, "") if parallel else call
