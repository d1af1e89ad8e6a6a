"""The steps of the decoders of the `tokenizers` library (see token_text), and their stages on the way."""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from typing import Any

from tokenizers import decoders

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")


class Stage(ABC):
    """One step of a decoder on its way through a sequence. Its state is replaced, never changed in place."""

    @abstractmethod
    def push(self, text: str) -> list[str]:
        """Takes the next text; those that are certain."""

    def finish(self) -> list[str]:
        """The rest, were this the end. Changes nothing."""
        return []


def through(texts: list[str], stages: Iterable[Stage]) -> list[str]:
    for stage in stages:
        texts = [after for text in texts for after in stage.push(text)]
    return texts


def finished(stages: Sequence[Stage]) -> list[str]:
    texts: list[str] = []
    for place, stage in enumerate(stages):
        texts += through(stage.finish(), stages[place + 1 :])
    return texts


class Step:
    """One step, for texts by themselves: `later` in the middle of a text, `first` at its beginning."""

    joins = False
    strips_space = False

    def __init__(self, fields: dict[str, Any]) -> None:
        """From the step's JSON form."""

    def first(self, text: str) -> str:
        return self.later(text)

    def later(self, text: str) -> str:
        return text

    def alone(self, text: str) -> str | bytes:
        """What a token adds by itself, bytes where they are no text yet."""
        return self.later(text)

    def inside(self, text: str) -> str | bytes:
        """The same behind a step that joins everything: in the middle of the one text that there is."""
        return self.first(text)

    def stage(self, *, continues: bool) -> Stage:
        return _Each(self.later if continues else self.first, self.later)

    def growing(self, *, continues: bool) -> Stage | None:
        """The stage for one text that comes in pieces; None where that is not possible."""
        return None


class _Each(Stage):
    def __init__(self, now: Callable[[str], str], later: Callable[[str], str]) -> None:
        self._now, self._later = now, later

    def push(self, text: str) -> list[str]:
        after = self._now(text)
        self._now = self._later
        return [after]


class Whole(Stage):
    """Waits for the end."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages
        self._text = ""

    def push(self, text: str) -> list[str]:
        self._text += text
        return []

    def finish(self) -> list[str]:
        stages = [copy(stage) for stage in self._stages]
        return [*through([self._text], stages), *finished(stages)]


class _Spaces(Step):
    """Without a decoder the library puts spaces between the tokens."""

    strips_space = True

    def first(self, text: str) -> str:
        return text

    def later(self, text: str) -> str:
        return f" {text}"


class _Fuse(Step):
    joins = True

    def growing(self, *, continues: bool) -> Stage:
        return self.stage(continues=continues)


class _Library(Step):
    """A step that looks at one text and at whether it is the first: the library itself takes it."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self._decode: Callable[[list[str]], str] = _library_step(fields).decode

    def first(self, text: str) -> str:
        return self._decode([text])

    def later(self, text: str) -> str:
        return self._decode(["", text])


class _Metaspace(_Library):
    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(fields)
        self.strips_space = fields.get("prepend_scheme") != "never"

    def inside(self, text: str) -> str:
        return self.later(text)

    def growing(self, *, continues: bool) -> Stage:
        # All of the growing text is the first one, and each character goes by itself.
        every = self.later if continues else self.first
        return _Each(every, every)


class _Replace(Step):
    def __init__(self, fields: dict[str, Any]) -> None:
        self._old: str | None = fields["pattern"].get("String") or None
        self._new: str = fields["content"]
        self._decode: Callable[[list[str]], str] = _library_step(fields).decode

    def later(self, text: str) -> str:
        return self._decode([text]) if self._old is None else text.replace(self._old, self._new)

    def growing(self, *, continues: bool) -> Stage | None:
        return None if self._old is None else _GrowingReplace(self._old, self._new)


class _GrowingReplace(Stage):
    def __init__(self, old: str, new: str) -> None:
        self._old, self._new = old, new
        self._held = ""

    def push(self, text: str) -> list[str]:
        *done, rest = (self._held + text).split(self._old)
        most = min(len(rest), len(self._old) - 1)
        held = next(n for n in range(most, -1, -1) if self._old.startswith(rest[len(rest) - n :]))
        self._held = rest[len(rest) - held :]
        return [self._new.join([*done, rest[: len(rest) - held]])]

    def finish(self) -> list[str]:
        return [self._held]


class _Strip(Step):
    def __init__(self, fields: dict[str, Any]) -> None:
        self._content: str = fields["content"]
        self._start, self._stop = int(fields["start"]), int(fields["stop"])
        self.strips_space = self._content == " " and self._start > 0

    def later(self, text: str) -> str:
        begin = _run(text, self._content, self._start)
        return text[begin : max(begin, len(text) - _run(text[::-1], self._content, self._stop))]

    def inside(self, text: str) -> str:
        return text

    def growing(self, *, continues: bool) -> Stage:
        return _GrowingStrip(self._content, 0 if continues else self._start, self._stop)


def _run(text: str, content: str, most: int) -> int:
    """How many of the first characters are `content`, at most `most`."""
    return min(most, len(text) - len(text.lstrip(content)))


class _GrowingStrip(Stage):
    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop
        self._held = ""

    def push(self, text: str) -> list[str]:
        cut = _run(text, self._content, self._start)
        self._start = self._start - cut if cut == len(text) else 0
        text = self._held + text[cut:]
        held = _run(text[::-1], self._content, self._stop)
        self._held = text[len(text) - held :]
        return [text[: len(text) - held]]


class _ByteFallback(Step):
    def alone(self, text: str) -> str | bytes:
        byte = _BYTE.fullmatch(text)
        return text if byte is None else bytes([int(byte[1], 16)])

    def stage(self, *, continues: bool) -> Stage:
        return ByteRuns()


class ByteRuns(Stage):
    """Neighbouring bytes are one text where they are UTF-8, else one U+FFFD each.

    `waits`: a character lacks bytes, so that all of its run would be U+FFFD, were this the end.
    """

    def __init__(self) -> None:
        self._run = self._tail = b""  # all that is held, and what has come of the last character
        self._broken = False

    @property
    def waits(self) -> bool:
        return bool(self._tail)

    def push(self, text: str) -> list[str]:
        if len(text) != 6 or not (found := _BYTE.fullmatch(text)):
            before = self.finish()
            self._run, self._tail, self._broken = b"", b"", False
            return [*before, text]
        byte = bytes([int(found[1], 16)])
        if self._broken:  # no later byte can mend the run
            return ["\ufffd"]
        self._run += byte
        tail = self._tail + byte
        try:
            self._tail = tail[codecs.utf_8_decode(tail, "strict", False)[1] :]
        except UnicodeDecodeError:
            held = len(self._run)
            self._run, self._tail, self._broken = b"", b"", True
            return ["\ufffd"] * held
        return []

    def finish(self) -> list[str]:
        if self._tail:
            return ["\ufffd"] * len(self._run)
        return [self._run.decode()] if self._run else []


class _ByteLevel(Step):
    joins = True

    def alone(self, text: str) -> str | bytes:
        data = _letter_bytes(text)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def stage(self, *, continues: bool) -> Stage:
        return _Letters()


class _Letters(Stage):
    def __init__(self) -> None:
        self._rest = b""

    def push(self, text: str) -> list[str]:
        data = self._rest + _letter_bytes(text)
        after, used = codecs.utf_8_decode(data, "replace", False)
        self._rest = data[used:]
        return [after]

    def finish(self) -> list[str]:
        return [self._rest.decode("utf-8", "replace")]


class _Suffix(Step):
    """A suffix ends a word: it is a space, but for the last token's."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.suffix: str = fields["suffix"]

    def later(self, text: str) -> str:
        return text.replace(self.suffix, " ")

    def stage(self, *, continues: bool) -> Stage:
        return _OneBehind(self)


class _OneBehind(Stage):
    def __init__(self, step: _Suffix) -> None:
        self._step = step
        self._last: str | None = None

    def push(self, text: str) -> list[str]:
        before, self._last = self._last, text
        return [] if before is None else [self._step.later(before)]

    def finish(self) -> list[str]:
        return [] if self._last is None else [self._last.replace(self._step.suffix, "")]


class _Ctc(_Library):
    """Equal neighbours are one token, and what is empty then is none."""

    def later(self, text: str) -> str:
        return self._decode([text])

    def stage(self, *, continues: bool) -> Stage:
        return _Distinct(self)


class _Distinct(Stage):
    def __init__(self, step: _Ctc) -> None:
        self._step = step
        self._last: str | None = None

    def push(self, text: str) -> list[str]:
        before, self._last = self._last, text
        after = "" if text == before else self._step.later(text)
        return [after] if after else []


STEPS: dict[str, Callable[[dict[str, Any]], Step]] = {
    "ByteLevel": _ByteLevel,
    "Replace": _Replace,
    "ByteFallback": _ByteFallback,
    "Fuse": _Fuse,
    "Strip": _Strip,
    "Metaspace": _Metaspace,
    "WordPiece": _Library,
    "BPEDecoder": _Suffix,
    "CTC": _Ctc,
    "Spaces": _Spaces,
}


def _library_step(fields: dict[str, Any]) -> Any:
    """One step of the library's, from its JSON form."""
    decoder = decoders.Fuse()  # any, for its kind is part of the state
    decoder.__setstate__(json.dumps(fields).encode())
    return decoder


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 bytes stand for themselves, the 68 others are U+0100 and on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()


def _letter_bytes(text: str) -> bytes:
    """The bytes of a byte-level token; what is not written in that alphabet is plain text."""
    try:
        return bytes([_BYTE_OF_LETTER[letter] for letter in text])
    except KeyError:
        return text.encode()
