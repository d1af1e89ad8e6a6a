"""A draft model's row that follows a committed text, as far as it can."""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.call import read, read_all
from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError


class Follower:
    """row: its number at the draft model, from the first draft on. lost: it can follow this text no more."""

    __slots__ = ("lost", "row")

    def __init__(self) -> None:
        self.row: int | None = None
        self.lost = False

    @property
    def number(self) -> int:
        """The row, of one that has it."""
        assert self.row is not None
        return self.row

    def free(self, target: Target) -> None:
        """Give the row back."""
        if self.row is not None:
            target.free([self.row])
            self.row = None

    def lose(self, target: Target) -> None:
        """Follow no longer."""
        self.free(target)
        self.lost = True

    def fork(self, target: Target, unread: list[int]) -> tuple[int | None, bool]:
        """(row, lost) of a twin. All but the last of what is `unread` is read before, once for both."""
        if self.row is None:
            return None, self.lost
        try:
            if len(unread) > 1:
                read_all(target, self.row, unread[:-1])
                del unread[:-1]
            return target.fork(self.row), False
        except OutpaceError:  # no memory left for these rows
            return None, True


def catch_up(target: Target, rows: Sequence[Follower], texts: Sequence[list[int]]) -> list[list[int]]:
    """Rows read their texts, all but the last tokens of each, which are returned: they are pending.

    [] for a row that has nothing to read, or is lost: the text is too long for it, has tokens unknown to the
    draft model, or there is no memory for it.
    """
    pending: list[list[int]] = [[] for _ in rows]
    able = []
    for n, (row, text) in enumerate(zip(rows, texts, strict=True)):
        if row.lost or not text:
            continue
        length = (0 if row.row is None else target.length(row.row)) + len(text)
        if length > target.context_length or max(text) >= target.vocab_size:
            row.lose(target)
        else:
            able.append(n)
    try:
        for n in able:
            if rows[n].row is None:
                rows[n].row = target.open()
        left = read(target, [rows[n].number for n in able], [texts[n] for n in able])
    except OutpaceError:  # no memory left for these rows
        for n in able:
            rows[n].lose(target)
    else:
        for n, unread in zip(able, left, strict=True):
            pending[n] = unread
    return pending
