"""JSON letter by letter: what has come so far is the beginning of a value, or it is refused (RFC 8259).

One leniency: models write line ends into strings. Such a control character is written out as its escape.
"""

from __future__ import annotations

import json
import re

SPACE = " \t\n\r"
MOST_DEPTH = 128  # of what readers in other languages take too
_BEGUN_NUMBER = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:(?<=[0-9])[eE][+-]?[0-9]*)?)?")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WORDS = {"t": "rue", "f": "alse", "n": "ull"}


class Malformed(Exception):
    """A letter that no JSON text has here."""


class JsonText:
    """One value.

    - `closed`: it is complete. A number by itself never is: see `ends_before`.
    - `members`: how many names of members have come with their colons.
    """

    def __init__(self) -> None:
        self.closed = False
        self.members = 0
        self._closers: list[str] = []
        self._state = self._value
        self._is_name = False
        self._number_so_far = ""
        self._due = ""  # of true, false or null
        self._digits = 0  # of an escape

    def push(self, letter: str) -> str:
        """Takes the next letter, and returns it as JSON has it. Raises Malformed."""
        return self._state(letter)

    def ends_before(self, letter: str) -> bool:
        """Whether this is a number by itself, and `letter` ("" for the end of the text) no part of it."""
        if self._closers or not _NUMBER.fullmatch(self._number_so_far):
            return False
        return not letter or not _BEGUN_NUMBER.fullmatch(self._number_so_far + letter)

    def _value(self, letter: str) -> str:
        if letter in SPACE:
            return letter
        if letter in "{[":
            if len(self._closers) == MOST_DEPTH:
                raise Malformed
            self._closers.append("}" if letter == "{" else "]")
            self._state = self._first_name if letter == "{" else self._first_item
        elif letter == '"':
            self._state = self._string
        elif letter in _WORDS:
            self._due, self._state = _WORDS[letter], self._word
        elif _BEGUN_NUMBER.fullmatch(letter):
            self._number_so_far, self._state = letter, self._number
        else:
            raise Malformed
        return letter

    def _first_item(self, letter: str) -> str:
        return self._close(letter) if letter == "]" else self._value(letter)

    def _first_name(self, letter: str) -> str:
        return self._close(letter) if letter == "}" else self._name(letter)

    def _name(self, letter: str) -> str:
        if letter == '"':
            self._is_name, self._state = True, self._string
        elif letter not in SPACE:
            raise Malformed
        return letter

    def _string(self, letter: str) -> str:
        if letter == '"':
            if self._is_name:
                self._is_name, self._state = False, self._colon
            else:
                self._end()
        elif letter == "\\":
            self._state = self._escape
        elif letter < " ":
            return json.dumps(letter)[1:-1]
        return letter

    def _escape(self, letter: str) -> str:
        if letter == "u":
            self._digits, self._state = 4, self._code
        elif letter in '"\\/bfnrt':
            self._state = self._string
        else:
            raise Malformed
        return letter

    def _code(self, letter: str) -> str:
        if letter not in "0123456789abcdefABCDEF":
            raise Malformed
        self._digits -= 1
        if not self._digits:
            self._state = self._string
        return letter

    def _colon(self, letter: str) -> str:
        if letter == ":":
            self.members += 1
            self._state = self._value
        elif letter not in SPACE:
            raise Malformed
        return letter

    def _word(self, letter: str) -> str:
        if letter != self._due[0]:
            raise Malformed
        self._due = self._due[1:]
        if not self._due:
            self._end()
        return letter

    def _number(self, letter: str) -> str:
        if _BEGUN_NUMBER.fullmatch(self._number_so_far + letter):
            self._number_so_far += letter
            return letter
        if not self._closers or not _NUMBER.fullmatch(self._number_so_far):
            raise Malformed
        self._state = self._behind
        return self._behind(letter)

    def _behind(self, letter: str) -> str:
        """Behind an item or a member."""
        if letter == self._closers[-1]:
            return self._close(letter)
        if letter == ",":
            self._state = self._name if self._closers[-1] == "}" else self._value
        elif letter not in SPACE:
            raise Malformed
        return letter

    def _close(self, letter: str) -> str:
        self._closers.pop()
        self._end()
        return letter

    def _end(self) -> None:
        self.closed = not self._closers
        self._state = self._nothing if self.closed else self._behind

    def _nothing(self, letter: str) -> str:
        raise Malformed


def whole_text(text: str) -> str:
    """A text that is one JSON value, as JSON has it. Raises Malformed."""
    value, written = JsonText(), ""
    for letter in text.strip(SPACE):
        written += value.push(letter)
    if not value.closed and not value.ends_before(""):
        raise Malformed
    return written
