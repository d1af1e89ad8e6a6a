"""DeepSeek R1, and V3.1 in its shorter form: a name, a separator and an object, between markers.

https://huggingface.co/deepseek-ai/DeepSeek-R1 and https://huggingface.co/deepseek-ai/DeepSeek-V3.1 (the
chat_template of each). R1 writes the word "function" before the separator, the name behind it, and a fence
of Markdown around the object.
"""

from __future__ import annotations

from outpace.server.tools.call_objects import ObjectReader
from outpace.server.tools.format import Format, Schemas
from outpace.server.tools.lark import Lark
from outpace.server.tools.reader import NoCall, Reading

ALL, END_ALL, ONE, SEPARATOR, END_ONE = (
    f"<\uff5ctool\u2581{words}\uff5c>"  # in the letters of DeepSeek's vocabulary
    for words in ("calls\u2581begin", "calls\u2581end", "call\u2581begin", "sep", "call\u2581end")
)
FENCE = "```"


class DeepSeekReader(ObjectReader):
    """Reads both forms."""

    openers = (ALL, ONE)
    closers = (FENCE, END_ONE, END_ALL)

    def _calls(self, opener: str) -> Reading[None]:
        if opener == ALL:
            yield from self._after_space()
            yield from self._literal(ONE[1:])
        name, _ = yield from self._until("<")
        yield from self._literal(SEPARATOR[1:])
        if name.strip() == "function":
            letter = yield from self._take()
            name = ""
            while letter not in "\n`{":
                name += letter
                letter = yield from self._take()
            if letter != "\n":
                self._put_back()
        name = name.strip()
        if name not in self._schemas:
            raise NoCall
        letter = yield from self._after_space()
        self._put_back()
        if letter == "`":
            yield from self._literal(FENCE)
            yield from self._literal_or_nothing("json")
        yield from self._call(name)

    def _literal_or_nothing(self, text: str) -> Reading[None]:
        letter = yield from self._take()
        self._put_back()
        if letter == text[0]:
            yield from self._literal(text)


class DeepSeekR1(Format):
    """With fences."""

    name = "deepseek-r1"
    markers = (ALL, ONE, SEPARATOR, END_ONE, END_ALL)
    reader = DeepSeekReader

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format."""
        call = lark.one_of(
            f"{lark.literal(self._before(name))} {lark.json(schema)}" for name, schema in schemas.items()
        )
        one = lark.rule(f"{lark.literal(ONE)} {call} {lark.literal(self._behind() + END_ONE)}")
        several = lark.several(one, self._between()) if parallel else one
        return f"{lark.literal(ALL)} {several} {lark.literal(END_ALL)}"

    def _before(self, name: str) -> str:
        return f"function{SEPARATOR}{name}\n{FENCE}json\n"

    def _behind(self) -> str:
        return f"\n{FENCE}"

    def _between(self) -> str:
        return "\n"


class DeepSeekV31(DeepSeekR1):
    """Nothing but the markers."""

    name = "deepseek-v3.1"

    def _before(self, name: str) -> str:
        return name + SEPARATOR

    def _behind(self) -> str:
        return ""

    def _between(self) -> str:
        return ""
