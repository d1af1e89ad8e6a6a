"""Qwen3-Coder and Qwen3.5: <function=NAME> with a <parameter=KEY> for each argument, inside <tool_call>.

https://huggingface.co/Qwen/Qwen3-Coder-30B-A3B-Instruct (chat_template). Values are plain text, with a line
end before and behind, so their types are those of the function's schema: strings are said while they come,
other values when they are whole. A text that does not fit its type is a string.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from outpace.server.tools.format import Format, Schemas
from outpace.server.tools.hermes import CLOSE, OPEN, HermesReader
from outpace.server.tools.json_text import Malformed, whole_text
from outpace.server.tools.lark import Lark
from outpace.server.tools.reader import NoCall, Reading
from outpace.server.tools.schemas import is_text, nested, resolved, types_of

FUNCTION, PARAMETER = "<function=", "<parameter="
END_FUNCTION, END_PARAMETER = "</function>", "</parameter>"
_ENDS = (f"\n{END_PARAMETER}", END_PARAMETER)
_STRING = {"type": "string"}  # what a key is that the schema does not have
_PYTHON = {"True": "true", "False": "false", "None": "null"}
_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
    type(None): ("null",),
}


class QwenCoderReader(HermesReader):
    """Also takes a function without <tool_call>, and a JSON object inside it."""

    openers = (OPEN, FUNCTION)

    def _calls(self, opener: str) -> Reading[None]:
        if opener == OPEN:
            letter = yield from self._after_space()
            if letter == "{":
                yield from self._object()
                return
            self._put_back()
            yield from self._literal(FUNCTION)
        name, _ = yield from self._until(">")
        if name not in self._schemas:
            raise NoCall
        yield from self._parameters(name)

    def _parameters(self, name: str) -> Reading[None]:
        keys = 0
        while (key := (yield from self._key())) is not None:
            if not keys:
                self._begin(name)
            self._argue(("{" if not keys else ", ") + f"{json.dumps(key, ensure_ascii=False)}: ")
            keys += 1
            root = self._schemas[name]
            schema = root.get("properties", {}).get(key, _STRING)
            if is_text(root, schema):
                yield from self._text()
            else:
                self._argue(_json((yield from self._whole_text()), types_of(root, schema)))
        if not keys:
            self._begin(name)
        self._argue("}" if keys else "{}")
        self._end()

    def _key(self) -> Reading[str | None]:
        """Reads up to a parameter's value; None where the function ends. Raises NoCall."""
        if (yield from self._after_space()) != "<":
            raise NoCall
        if (yield from self._take()) == "/":
            yield from self._literal(END_FUNCTION[2:])
            return None
        self._put_back()
        yield from self._literal(PARAMETER[1:])
        return (yield from self._until(">"))[0]

    def _text(self) -> Reading[None]:
        """Reads a value and says it as a string, while it comes."""
        self._argue('"')
        start, first = "", True
        while start not in _ENDS:
            try:
                letter = yield from self._take()
            except NoCall:
                self._argue(_escaped(start))
                raise
            if first and letter == "\n":
                first = False
                continue
            first = False
            start += letter
            certain = 0
            while not any(end.startswith(start[certain:]) for end in _ENDS):
                certain += 1
            if certain:
                self._argue(_escaped(start[:certain]))
                start = start[certain:]
        self._argue('"')

    def _whole_text(self) -> Reading[str]:
        """Reads a value."""
        text = ""
        while not text.endswith(END_PARAMETER):
            text += yield from self._take()
        return text.removesuffix(END_PARAMETER).removeprefix("\n").removesuffix("\n")


class QwenCoder(Format):
    """See above."""

    name = "qwen-coder"
    markers = (OPEN, CLOSE)
    reader = QwenCoderReader

    def calls(self, lark: Lark, schemas: Schemas, *, parallel: bool) -> str:
        """See Format. Parameters come in the order of their schema, those that need not be may be missing."""
        call = lark.one_of(self._function(lark, name, schema) for name, schema in schemas.items())
        before, behind = lark.literal(f"{OPEN}\n{FUNCTION}"), lark.literal(f"{END_FUNCTION}\n{CLOSE}")
        one = lark.rule(f"{before} {call} {behind}")
        return lark.several(one, "\n") if parallel else one

    def _function(self, lark: Lark, name: str, schema: Mapping[str, Any]) -> str:
        parts = [lark.literal(f"{name}>\n")]
        required = schema.get("required", ())
        for key, value in schema.get("properties", {}).items():
            before = lark.literal(f"{PARAMETER}{key}>\n")
            one = f"{before} {self._parameter(lark, schema, value)}"
            parts.append(one if key in required else f"({one})?")
        return " ".join(parts)

    def _parameter(self, lark: Lark, root: Mapping[str, Any], schema: Any) -> str:
        end = f"\n{END_PARAMETER}\n"
        if not is_text(root, schema):
            return f"{lark.json(nested(root, schema))} {lark.literal(end)}"
        schema = resolved(root, schema)
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is None:
            return lark.up_to(end)
        return f"{lark.one_of(map(lark.literal, values))} {lark.literal(end)}"


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _json(text: str, types: frozenset[str]) -> str:
    """A value of one of these types (any, where none is named) as JSON; a string where it is of none."""
    try:
        written = whole_text(_PYTHON.get(text.strip(), text))
        fits = not types or not types.isdisjoint(_TYPES[type(json.loads(written))])
    except Malformed:
        fits = False
    return written if fits else json.dumps(text, ensure_ascii=False)
