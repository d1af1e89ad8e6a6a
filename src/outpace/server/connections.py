"""Connections as uvicorn has them, which end where a client takes or sends nothing for a while.

What waits for a client that does not read is bounded by the length of its answer, but not in time.
"""

from __future__ import annotations

import asyncio
import logging

import h11
from prometheus_client import Counter
from uvicorn.protocols.http.h11_impl import H11Protocol

LOG = logging.getLogger("outpace.server")
STALLED_S = 60.0


def connections(stalled: Counter, *, seconds: float = STALLED_S) -> type[asyncio.Protocol]:
    """A protocol for uvicorn. A client that stands still so long is hung up on, and counted."""

    class Connection(H11Protocol):
        _reads: asyncio.Handle
        _writes: asyncio.Handle

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._writes = self._reads = self.loop.call_later(seconds, self._hang_up, "sent")
            transport.set_write_buffer_limits(high=0)  # tells of every byte that is not taken

        def connection_lost(self, exc: Exception | None) -> None:
            self._writes.cancel()
            self._reads.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            self._reads.cancel()
            super().data_received(data)
            if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):  # its request is not whole
                self._reads = self.loop.call_later(seconds, self._hang_up, "sent")

        def pause_writing(self) -> None:
            super().pause_writing()
            self._writes = self.loop.call_soon(self._wait)  # when all of the message waits

        def resume_writing(self) -> None:
            self._writes.cancel()
            super().resume_writing()

        def _wait(self) -> None:
            self._writes = self.loop.call_later(seconds, self._look, self.transport.get_write_buffer_size())

        def _look(self, before: int) -> None:
            if self.transport.get_write_buffer_size() < before:
                self._wait()
            else:
                self._hang_up("taken")

        def _hang_up(self, what: str) -> None:
            stalled.inc()
            LOG.warning("a client has %s nothing for %g seconds and is hung up on", what, seconds)
            self.transport.abort()

    return Connection
