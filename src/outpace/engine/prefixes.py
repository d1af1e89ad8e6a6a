"""Where a request's row comes from: a new one, or what its prompt has in common with a text that was read.

    begin   a row that holds as much of a prompt as a parked row has, or one that runs; only the rest is read
    end     the row of a text that has ended is parked, with all tokens that it holds
    drop    who was used least recently is given back

The next prompt of a conversation is its last one, the answer and a new message; many prompts begin with the
same instructions. Pages are shared as in PagedAttention (Kwon et al. 2023, arXiv:2309.06180). SGLang finds
them by a radix tree (Zheng et al. 2023, arXiv:2312.07104); here texts are compared one after the other, as
there are tens of them. No bit depends on it where the target is "bitwise".

Parked rows take only memory that nobody wants: `make_room` gives them back, whatever engine has parked them.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from outpace.core.beside import Beside
from outpace.core.call import Prompt
from outpace.core.contracts import Cuttable, Target
from outpace.core.errors import CacheFull, OutpaceError
from outpace.core.options import checked, whole

LEAST = 32  # tokens in common, below which there is little to win
MOST = 2**40


class Held(NamedTuple):
    """A row, and the text that it has read or goes on to read; a parked one holds all of it."""

    row: int
    tokens: Sequence[int] | NDArray[np.int64]


class Fresh:
    """Every row is new, and given back at its end. All calls are made in the target's turn."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def begin(self, prompt: Prompt, running: Iterable[Held]) -> tuple[int, int]:
        """(row, how many of the prompt's tokens it holds). `running`: rows of texts that have not ended.

        Raises an OutpaceError for a source that the target does not read.
        """
        return self._target.open(prompt.source), 0

    def end(self, row: int, tokens: Sequence[int]) -> None:
        """The text of a row without a source has ended; `tokens`: all of it."""
        self._target.free([row])

    def clear(self) -> None:
        """Give back what is parked."""


class Prefixes(Fresh):
    """Rows of texts that have ended stay for those that begin like them. It belongs to one engine.

    target        `Cuttable`; see `prefixes_of` for any other. A prompt with a source shares nothing.
    most_tokens   that parked rows hold together; None for half of what the target has room for.
    least_tokens  in common, from which on a row is shared.
    """

    @checked
    def __init__(
        self, target: Cuttable, *, most_tokens: int | None = None, least_tokens: int = LEAST
    ) -> None:
        super().__init__(target)
        self._cuttable = target
        most = target.cache_tokens // 2 if most_tokens is None else most_tokens
        self._most = whole("most_tokens", most, 0, MOST)
        self._least = whole("least_tokens", least_tokens, 1, MOST)
        self._parked: list[Held] = []  # who was used least recently first
        _PREFIXES.of(target).add(self)

    @property
    def num_rows(self) -> int:
        """Parked rows."""
        return len(self._parked)

    @property
    def num_tokens(self) -> int:
        """What they hold together; tokens that several of them share count for each."""
        return sum(len(held.tokens) for held in self._parked)

    def begin(self, prompt: Prompt, running: Iterable[Held]) -> tuple[int, int]:
        """See `Fresh`. The last token of a prompt is always left to be read: the next is chosen after it."""
        if prompt.source is not None:
            return super().begin(prompt, running)
        tokens, best, most = np.array(prompt.tokens, np.int64), None, self._least - 1
        for held in [*running, *self._parked]:
            read = self._target.length(held.row)
            common = min(_common(held.tokens[:read], tokens), len(tokens) - 1)
            if common > most or (common == most and best is not None):  # of several the last used
                best, most = held, common
        if best is None:
            return super().begin(prompt, running)
        self._use(best)
        while True:
            try:
                return self._cuttable.fork_at(best.row, most), most
            except CacheFull:  # the end of what is shared is a copy
                others = [held for held in self._parked if held is not best]
                if not others:
                    return super().begin(prompt, running)
                self._give_back(others[0])

    def end(self, row: int, tokens: Sequence[int]) -> None:
        """Park a row. Another that its text begins with says nothing more, and is given back."""
        text = self._read(row, tokens)
        if not self._least <= len(text) <= self._most:
            self._target.free([row])
            return
        for held in [*self._parked]:
            common = _common(held.tokens, text)
            if common == len(text):
                self._target.free([row])
                return
            if common == len(held.tokens):
                self._give_back(held)
        self._parked.append(Held(row, text))
        while self.num_tokens > self._most:
            self.drop()

    def drop(self) -> int:
        """Give back the row that was used least recently; returns how many tokens it held, or 0."""
        if not self._parked:
            return 0
        held = self._parked[0]
        self._give_back(held)
        return len(held.tokens)

    def clear(self) -> None:
        """See `Fresh`."""
        while self.drop():
            pass

    def _read(self, row: int, tokens: Sequence[int]) -> NDArray[np.int64]:
        """What a row holds, as far as it is known: behind a text's end it may hold drafts that were right."""
        try:
            return np.array(tokens[: self._target.length(row)], np.int64)
        except OutpaceError:  # the target is closed
            return np.array([], np.int64)

    def _use(self, held: Held) -> None:
        for place, other in enumerate(self._parked):
            if other is held:
                self._parked.append(self._parked.pop(place))
                return

    def _give_back(self, held: Held) -> None:
        self._parked = [other for other in self._parked if other is not held]
        self._target.free([held.row])


_PREFIXES: Beside[weakref.WeakSet[Prefixes]] = Beside(lambda target: weakref.WeakSet())


def prefixes_of(
    target: Target, *, most_tokens: int | None = None, least_tokens: int = LEAST
) -> Prefixes | None:
    """`Prefixes` of a target that can cut rows; None for others, whose rows are all new."""
    if not isinstance(target, Cuttable):
        return None
    return Prefixes(target, most_tokens=most_tokens, least_tokens=least_tokens)


def make_room(target: Target, num_tokens: int) -> bool:
    """Give back parked rows of so many tokens, of the engine that has parked most; False if there is none."""
    freed = 0
    while freed < num_tokens:
        parked = sorted(_PREFIXES.of(target), key=lambda prefixes: prefixes.num_tokens)
        if not parked or not (dropped := parked[-1].drop()):
            break
        freed += dropped
    return freed > 0


def _common(text: Sequence[int] | NDArray[np.int64], other: NDArray[np.int64]) -> int:
    """With how many tokens both begin."""
    most = min(len(text), len(other))
    differ = np.flatnonzero(np.asarray(text[:most], np.int64) != other[:most])
    return int(differ[0]) if len(differ) else most
