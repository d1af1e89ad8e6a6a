"""Calls as JSON objects, `{"name": ..., "arguments": {...}}`: most families write these inside their markers.

Members may come in any order; others than these two, and a comma too many, are passed over. `parameters` is
Llama's word for `arguments`, and some models write the arguments as a JSON text in a string.
"""

from __future__ import annotations

import json

from outpace.server.tools.json_text import SPACE, JsonText, Malformed, whole_text
from outpace.server.tools.reader import NoCall, Reader, Reading

ARGUMENTS = ("arguments", "parameters")


class ObjectReader(Reader):
    """What such families share: behind the marker stands a list of calls, or one."""

    def _calls(self, opener: str) -> Reading[None]:
        yield from self._opened((yield from self._after_space()))

    def _opened(self, letter: str) -> Reading[None]:
        """Reads the rest of a list, or of a call, of which the first letter has been read. Raises NoCall."""
        if letter == "[":
            yield from self._list()
        elif letter == "{":
            yield from self._object()
        else:
            raise NoCall

    def _after_space(self) -> Reading[str]:
        while (letter := (yield from self._take())) in SPACE:
            pass
        return letter

    def _list(self) -> Reading[None]:
        """Reads the rest of a list of calls, of which "[" has been read. Raises NoCall."""
        letter = yield from self._after_space()
        while letter == "{":
            yield from self._object()
            letter = yield from self._after_space()
            if letter == "]":
                self._held.clear()
                return
            if letter != ",":
                raise NoCall
            letter = yield from self._after_space()
        raise NoCall

    def _object(self) -> Reading[None]:
        """Reads the rest of a call, of which "{" has been read. Raises NoCall."""
        name = arguments = None
        letter = yield from self._after_space()
        while letter != "}":
            if letter != '"':
                raise NoCall
            member = yield from self._string()
            self._check_member(member)
            if (yield from self._after_space()) != ":":
                raise NoCall
            if member == "name" and name is None:
                name = yield from self._name()
                if arguments is not None:
                    self._whole_call(name, arguments)
            elif member in ARGUMENTS and arguments is None:
                if name is None:
                    arguments = _object_of((yield from self._value()))
                else:
                    yield from self._call(name)
                    arguments = ""
            else:
                yield from self._value()
            letter = yield from self._after_space()
            if letter == ",":
                letter = yield from self._after_space()
            elif letter != "}":
                raise NoCall
        if name is None:
            raise NoCall
        if arguments is None:
            self._whole_call(name, self._no_arguments())
        self._held.clear()

    def _check_member(self, member: str) -> None:
        """Raises NoCall for a member that no call of the family has."""

    def _no_arguments(self) -> str:
        """The arguments of a call that has none. Raises NoCall where it must have them."""
        return "{}"

    def _name(self) -> Reading[str]:
        """Reads the string that names a function. Raises NoCall where there is no such function."""
        if (yield from self._after_space()) != '"':
            raise NoCall
        name = yield from self._string()
        if name not in self._schemas:
            raise NoCall
        return name

    def _call(self, name: str) -> Reading[None]:
        """Reads the arguments of a function, and says them while they come. Raises NoCall."""
        letter = yield from self._after_space()
        self._put_back()
        if letter != "{":
            self._whole_call(name, _object_of((yield from self._value())))
            return
        value, first, begun = JsonText(), "", False
        while not value.closed:
            text = _pushed(value, (yield from self._take()))
            if begun:
                self._argue(text)
                continue
            first += text
            if value.members or value.closed:  # an object in another language than JSON would have failed
                self._begin(name)
                self._argue(first)
                begun = True
        self._end()

    def _whole_call(self, name: str, arguments: str) -> None:
        self._begin(name)
        self._argue(arguments)
        self._end()

    def _string(self) -> Reading[str]:
        """Reads the rest of a string, of which the quotation mark has been read; what it says."""
        self._put_back()
        text: str = json.loads((yield from self._value()))
        return text

    def _value(self) -> Reading[str]:
        """Reads any JSON value, whitespace before it included. Raises NoCall."""
        value, written = JsonText(), []
        while not value.closed:
            letter = yield from self._take()
            if value.ends_before(letter):
                self._put_back()
                break
            written.append(_pushed(value, letter))
        return "".join(written)


def _pushed(value: JsonText, letter: str) -> str:
    try:
        return value.push(letter)
    except Malformed:
        raise NoCall from None


def _object_of(text: str) -> str:
    """The object in arguments that came in one piece; null is an empty one, and a string may hold it.

    Raises NoCall.
    """
    text = text.strip(SPACE)
    if text == "null":
        return "{}"
    if text.startswith('"'):
        try:
            text = whole_text(json.loads(text))
        except Malformed:
            raise NoCall from None
    if not text.startswith("{"):
        raise NoCall
    return text
