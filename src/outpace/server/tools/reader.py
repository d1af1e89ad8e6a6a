"""A text that a model writes, letter by letter: what is content, and where calls begin.

A reader is a generator that is sent one letter at a time, so what it says can not depend on how the text was
cut. It holds back what may still turn out to be a call, and nothing else: whitespace and the beginning of a
marker until the next letter decides, a call until its first argument has a name. What turns out to be no call
is content. A call that has begun can not be taken back: it keeps the arguments that were said, which are then
no whole JSON text, and what follows is content.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping
from typing import Any, ClassVar, TypeVar

from outpace.server.tools.deltas import Arguments, CallBegins, Content, Delta, merged

T = TypeVar("T")
Reading = Generator[None, str, T]
"""A part of a reader: takes letters ("" is the end of the text) and returns what it has read."""
THINK, THOUGHT = "<think>", "</think>"


class NoCall(Exception):
    """What is held is no part of a call."""


class _Enough(Exception):
    """As many calls as may be."""


class Reader(ABC):
    """Deltas of one text. Between <think> and </think> all is content.

    - `openers`, `closers`: texts that open calls, and those that may follow one and say nothing.
    - `line_openers`: letters that may open a call where a line begins.
    - `done`: no call may follow, and all further text is ignored.
    - `num_calls`: how many calls have begun.
    """

    openers: ClassVar[tuple[str, ...]] = ()
    closers: ClassVar[tuple[str, ...]] = ()
    line_openers: ClassVar[str] = ""

    def __init__(
        self,
        schemas: Mapping[str, Mapping[str, Any]],
        *,
        new_id: Callable[[], str],
        most_calls: int | None = None,
        thinks: bool = False,
    ) -> None:
        """`schemas`: the JSON schema of the arguments of every function that may be called, by its name.

        `thinks`: the prompt has opened a <think> that the text closes.
        """
        self.done = False
        self.num_calls = 0
        self._schemas = schemas
        self._new_id = new_id
        self._most_calls = most_calls
        self._deltas: list[Delta] = []
        self._held: list[str] = []  # what has been read of a call, and not been said
        self._again: list[str] = []  # letters that are read once more, the last one first
        self._ended = False
        self._behind_call = False  # nothing but closers since
        self._line_begins = True
        marks = (*self.openers, *self.closers, *self.line_openers, THINK)
        self._firsts = frozenset(mark[0] for mark in marks)
        self._machine = self._all(thinks)
        next(self._machine)

    def push(self, text: str) -> list[Delta]:
        """Takes the next piece of the text; what has become certain."""
        for letter in text:
            self._machine.send(letter)
        return self._said()

    def finish(self) -> list[Delta]:
        """What the end of the text makes certain."""
        if not self._ended:
            self._machine.send("")
        return self._said()

    @abstractmethod
    def _calls(self, opener: str) -> Reading[None]:
        """Reads what an opener has opened. Raises NoCall."""

    def _said(self) -> list[Delta]:
        deltas, self._deltas = self._deltas, []
        return merged(deltas)

    def _all(self, thinks: bool) -> Reading[None]:
        try:
            if thinks:
                yield from self._thoughts()
            while opener := (yield from self._content()):
                try:
                    yield from self._calls(opener)
                except NoCall:
                    self._give_up()
        except _Enough:
            self.done = True
        while True:
            yield

    def _next(self) -> Reading[str]:
        if self._again:
            return self._again.pop()
        letter = "" if self._ended else (yield)
        self._ended = not letter
        return letter

    def _take(self) -> Reading[str]:
        """The next letter of what may be a call. Raises NoCall at the end of the text."""
        letter = yield from self._next()
        if not letter:
            raise NoCall
        self._held.append(letter)
        return letter

    def _put_back(self) -> None:
        self._again.append(self._held.pop())

    def _give_up(self) -> None:
        """What is held is content, but for the letter that no call has there: another may begin with it."""
        if not self._ended and self._held:
            self._put_back()
        self._say("".join(self._held))
        self._held.clear()

    def _say(self, content: str) -> None:
        if content:
            self._deltas.append(Content(content))
            self._behind_call = False
            line = content.rpartition("\n")[2] if "\n" in content or self._line_begins else "x"
            self._line_begins = not line.strip()

    def _content(self) -> Reading[str]:
        """Says content until an opener is complete, and returns that, held; "" at the end of the text."""
        space = start = ""
        while letter := (yield from self._next()):
            if not start and letter not in self._firsts and not letter.isspace():  # nearly always
                self._say(space + letter)
                space = ""
                continue
            start += letter
            while start and not self._may_begin(start, space):
                if start[0].isspace():
                    space += start[0]
                else:
                    self._say(space + start[0])
                    space = ""
                start = start[1:]
            if start == THINK:
                self._say(space + start)
                yield from self._thoughts()
            elif start in self.closers:
                self._line_begins = True
            elif start in self.openers or (start and start in self.line_openers):
                self._held = [*space, *start]
                return start
            else:
                continue
            space = start = ""
        if start or not self._behind_call:
            self._say(space + start)
        return ""

    def _may_begin(self, start: str, space: str) -> bool:
        if start in self.line_openers:
            return self._line_begins or "\n" in space
        marks = (*self.openers, THINK, *(self.closers if self._behind_call else ()))
        return any(mark.startswith(start) for mark in marks)

    def _thoughts(self) -> Reading[None]:
        last = ""
        while last != THOUGHT and (letter := (yield from self._next())):
            self._say(letter)
            last = (last + letter)[-len(THOUGHT) :]
        self._line_begins = True

    def _literal(self, text: str) -> Reading[None]:
        """Reads exactly this text. Raises NoCall."""
        for letter in text:
            if (yield from self._take()) != letter:
                raise NoCall

    def _until(self, ends: str) -> Reading[tuple[str, str]]:
        """Reads up to one of these letters on the same line: what comes before it, and the letter."""
        text = ""
        while (letter := (yield from self._take())) not in ends:
            if letter == "\n":
                raise NoCall
            text += letter
        return text, letter

    def _begin(self, name: str) -> None:
        """A call is certain; what is held has been a part of it."""
        self._deltas.append(CallBegins(self.num_calls, self._new_id(), name))
        self.num_calls += 1

    def _argue(self, text: str) -> None:
        """The arguments of the last call grow; what is held has been said by that."""
        if text:
            self._deltas.append(Arguments(self.num_calls - 1, text))
        self._held.clear()

    def _end(self) -> None:
        """The arguments of the last call are whole."""
        self._behind_call = self._line_begins = True
        if self.num_calls == self._most_calls:
            raise _Enough
