"""A text while it is written."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator

from outpace.core.errors import OutpaceError
from outpace.engine.engine import Event
from outpace.engine.request import Generation


class Stream:
    """Pieces of text, by `for` or `async for`; once it has ended, `result` is the whole Generation.

    Every piece is certain. Streams of one model take turns step by step, in one thread or in many, and a
    stream may be closed by another thread than the one that reads it.

    From its first piece on a stream holds a row of the model, until it has ended or is closed: leave one that
    you do not read to its end by `close()`, or use it in a `with` block.
    """

    def __init__(
        self, steps: Generator[dict[int, Event], None, list[Generation]], check: Callable[[], None]
    ) -> None:
        """steps  of one request. `check` raises an OutpaceError where the model is closed."""
        self._steps = steps
        self._check = check
        self._result: Generation | None = None
        self._turn = threading.RLock()

    def events(self) -> Iterator[Event]:
        """What each step adds: tokens, text (maybe ""), and what was drafted and kept of it.

        For an event's `tree` and `path` see `outpace.engine.engine.Event`. Whoever reads pieces of text too
        takes them from the same steps.
        """
        while (event := self._next()) is not None:
            yield event

    def _next(self) -> Event | None:
        with self._turn:
            try:
                self._check()
            except OutpaceError:
                self._steps.close()
                raise
            try:
                return next(self._steps)[0]
            except StopIteration as end:
                if end.value:
                    self._result = end.value[0]
                return None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while (event := self._next()) is not None:
            if event.text:
                return event.text
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        import asyncio  # takes longer to import than all of this package

        # A StopIteration can not pass through a future, and every piece has a character.
        if piece := await asyncio.to_thread(next, self, ""):
            return piece
        raise StopAsyncIteration

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End early and give back what the request holds, when the step under way is over."""
        with self._turn:
            self._steps.close()

    @property
    def result(self) -> Generation:
        """The whole Generation; a RuntimeError before the stream has ended, or if it was closed."""
        if self._result is None:
            raise RuntimeError("the stream has not come to its end")
        return self._result
