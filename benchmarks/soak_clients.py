"""Clients of the soak: those that ask and compare, and those that behave badly in all ways that we know."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.soak_answers import CHAT, Known, streamed_texts, whole_texts

MOST_CLIENTS = 24
Way = Callable[[], Awaitable[None]]
JSON = {"Content-Type": "application/json"}
WRONG_BODIES = (
    b'{"messages": [',
    b"[" * 100_000,
    b'{"messages": "\xc3\x28"}',
    b'{"messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": ' + b"9" * 5000 + b"}",
    b'{"messages": [{"role": "user", "content": "a"}], "frobnicate": 1}',
    b'{"messages": [{"role": "user", "content": "a"}], "structured_outputs": {"regex": "("}}',
    b'{"messages": [{"role": "user", "content": "a"}], "tool_choice": "required"}',
)


@dataclass
class Heard:
    """What clients have met. asked: by way; right: answers that were compared and fit, by life and kind."""

    asked: Counter[str] = field(default_factory=Counter)
    right: list[Counter[str]] = field(default_factory=lambda: [Counter()])
    wrong: list[str] = field(default_factory=list)
    down: bool = False  # the server is being killed: nothing counts

    def check(self, what: str, fits: bool) -> None:
        """Note what does not fit."""
        if not fits and not self.down:
            self.wrong.append(what)


class Clients:
    """All that is asked of one server."""

    def __init__(self, port: int, known: Sequence[Known], heard: Heard, seed: int) -> None:
        self._port, self._known, self._heard = port, known, heard
        self._rng = random.Random(seed)
        self._http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120)

    async def run(self, until: float) -> None:
        """Ask until then, so many at once as chance says."""
        often: list[tuple[Way, int]] = [(self._whole, 6), (self._streamed, 4), (self._cancelled, 3)]
        often += [(way, 1) for way in (self._slow, self._stopped, self._vanished, self._half)]
        often += [(self._too_long, 1), (self._wrong, 1)]
        ways = [way for way, times in often for _ in range(times)]
        under_way: set[asyncio.Task[None]] = set()
        while time.monotonic() < until:
            most = self._rng.randint(1, MOST_CLIENTS)
            for _ in range(most - len(under_way)):
                under_way.add(asyncio.create_task(self._one(self._rng.choice(ways))))
            if under_way:
                _, under_way = await asyncio.wait(under_way, timeout=1, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.gather(*under_way)
        await self._http.aclose()

    async def _one(self, way: Way) -> None:
        try:
            await way()
        except (httpx2.TransportError, OSError) as error:
            self._heard.check(f"{way.__name__}: {error!r}", False)
            await asyncio.sleep(0.2)
        else:
            self._heard.asked[way.__name__.strip("_")] += 1

    def _compare(self, one: Known, texts: object, status: int = 200) -> None:
        fits = status == 200 and texts == one.texts
        self._heard.check(f"{one.body} gave {status} {texts}, expected {one.texts}", fits)
        if fits:
            self._heard.right[-1][one.kind] += 1

    async def _whole(self) -> None:
        one = self._rng.choice(self._known)
        answer = await self._http.post(one.path, json=one.body)
        fine = answer.status_code == 200
        self._compare(one, whole_texts(answer.json()) if fine else answer.text, answer.status_code)

    async def _streamed(self) -> None:
        one = self._rng.choice(self._known)
        self._compare(one, streamed_texts([chunk async for chunk in self._chunks(one)], len(one.texts)))

    async def _cancelled(self) -> None:
        """Leaves after so many chunks."""
        one, chunks = self._rng.choice(self._known), list[Any]()
        most = self._rng.randint(0, 6)
        async for chunk in self._chunks(one):
            chunks.append(chunk)
            if len(chunks) >= most:
                break
        begun = streamed_texts(chunks, len(one.texts))
        fits = all(whole.startswith(text) for whole, text in zip(one.texts, begun, strict=True))
        self._heard.check(f"{one.body} began {begun}, expected {one.texts}", fits)

    async def _chunks(self, one: Known) -> AsyncIterator[Any]:
        async with self._http.stream("POST", one.path, json={**one.body, "stream": True}) as response:
            async for line in response.aiter_lines():
                for chunk in _chunks_in([line]):
                    yield chunk

    async def _slow(self) -> None:
        """Reads byte by byte."""
        one, got, loop = self._rng.choice(self._known), bytearray(), asyncio.get_running_loop()
        async with self._line(one) as line:
            while piece := await loop.sock_recv(line, 1):
                got += piece
                if len(got) % 64 == 0:
                    await asyncio.sleep(0.01)
        head, _, text = got.decode().partition("\r\n\r\n")
        status = int(head.split(" ", 2)[1]) if head else 0
        lines = text.split("\n")[:-1]  # where the server was killed, the last one is torn
        self._compare(one, streamed_texts(_chunks_in(lines), len(one.texts)), status)

    async def _stopped(self) -> None:
        """Reads a little and then no more, for a while."""
        async with self._line(self._rng.choice(self._known)) as line:
            await asyncio.get_running_loop().sock_recv(line, self._rng.randint(1, 500))
            await asyncio.sleep(self._rng.uniform(0, 5))

    async def _vanished(self) -> None:
        """Is gone before the first byte."""
        async with self._line(self._rng.choice(self._known), stream=self._rng.random() < 0.5):
            await asyncio.sleep(self._rng.choice([0, 0, 0.002, 0.02]))

    async def _half(self) -> None:
        """Sends half of its request."""
        async with self._line(self._rng.choice(self._known), part=self._rng.random()):
            await asyncio.sleep(self._rng.choice([0, 0.02]))

    @asynccontextmanager
    async def _line(
        self, one: Known, *, stream: bool = True, part: float = 1.0
    ) -> AsyncIterator[socket.socket]:
        """A connection on which a request, or a part of it, has been sent."""
        loop, raw = asyncio.get_running_loop(), json.dumps({**one.body, "stream": stream}).encode()
        head = f"POST {one.path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\n"
        asked = f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw
        with socket.socket() as line:
            line.setblocking(False)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            await loop.sock_connect(line, ("127.0.0.1", self._port))
            await loop.sock_sendall(line, asked[: int(part * len(asked))])
            yield line

    async def _too_long(self) -> None:
        raw = json.dumps({"messages": [{"role": "user", "content": "a" * (5 << 20)}]}).encode()
        try:
            answer = await self._http.post(CHAT, content=raw, headers=JSON)
        except httpx2.TransportError:  # it hangs up before all is sent
            return
        self._heard.check(f"5 MB gave {answer.status_code}", answer.status_code == 413)

    async def _wrong(self) -> None:
        body = self._rng.choice(WRONG_BODIES)
        answer = await self._http.post(CHAT, content=body, headers=JSON)
        self._heard.check(f"{body[:100]!r} gave {answer.status_code}", answer.status_code == 400)


def _chunks_in(lines: Sequence[str]) -> Iterator[Any]:
    for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line[6:])
