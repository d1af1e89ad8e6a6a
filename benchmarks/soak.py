"""A server under everything at once, for a while: does it leak, get stuck, or answer wrongly?

    python -m benchmarks.soak --minutes 30

Clients ask, stream, hang up in the midst of a stream, read slowly, and send bodies that are too long or no
JSON, so many at once as chance says. In the middle the server is killed (SIGKILL) and started anew. Every
answer is compared with plain decoding in the library. In the end no request may be left, and the resident
memory of each of the two lives may not have grown by more than 3 % after its first third.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

import outpace
from benchmarks.side_by_side import model_file
from outpace.models.text import Model

NAME = "soaked"
MOST_CLIENTS = 24
MOST_GROWTH = 0.03
CHAT = "/v1/chat/completions"
Way = Callable[[], Awaitable[None]]
WORDS = "the harbour was quiet and two boats lay at the pier when the wind turned in the afternoon".split()


@dataclass
class Soak:
    """What happened. memory: resident bytes by life, a reading each half second."""

    asked: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[list[int]] = field(default_factory=lambda: [[]])
    left: int = -1
    down: bool = False

    def growths(self) -> list[float]:
        """Of each life: the median of its last sixth against that behind its first third."""
        found = []
        for life in self.memory:
            third, sixth = len(life) // 3, max(1, len(life) // 6)
            before, after = life[third : third + sixth], life[-sixth:]
            found.append(statistics.median(after) / statistics.median(before) - 1)
        return found


def bodies(rng: random.Random, count: int, max_tokens: int) -> list[dict[str, Any]]:
    """Requests of chats, with seeds."""
    made = []
    for number in range(count):
        content = " ".join(rng.choices(WORDS, k=rng.randint(1, 60)))
        options = {
            "temperature": rng.choice([0, 0.8]),
            "seed": number,
            "max_tokens": rng.randint(1, max_tokens),
        }
        made.append({"messages": [{"role": "user", "content": content}], **options})
    return made


def expected(model: Model, body: dict[str, Any]) -> str:
    """The text of plain decoding."""
    options = {name: value for name, value in body.items() if name != "messages"}
    text: str = model.generate(body["messages"], draft=None, **options).text
    return text


class Clients:
    """All that is asked of one server."""

    def __init__(self, port: int, known: Sequence[tuple[dict[str, Any], str]], soak: Soak, seed: int) -> None:
        self._port, self._known, self._soak = port, known, soak
        self._rng = random.Random(seed)
        self._http = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120)

    async def run(self, until: float) -> None:
        """Ask until then, so many at once as chance says."""
        often: list[tuple[Way, int]] = [(self._whole, 6), (self._streamed, 4), (self._cancelled, 3)]
        often += [(self._slow, 1), (self._too_long, 1), (self._no_json, 1)]
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
        except (httpx2.TransportError, OSError):
            if not self._soak.down:
                self._soak.wrong.append(f"{way.__name__}: the server hung up")
            await asyncio.sleep(0.2)
        else:
            self._soak.asked[way.__name__.strip("_")] += 1

    def _check(self, what: str, fits: bool) -> None:
        if not fits and not self._soak.down:
            self._soak.wrong.append(what)

    async def _whole(self) -> None:
        body, text = self._rng.choice(self._known)
        answer = await self._http.post(CHAT, json=body)
        found = answer.json()
        right = answer.status_code == 200 and found["choices"][0]["message"]["content"] == text
        self._check(f"{body} gave {found}", right)

    async def _streamed(self) -> None:
        body, text = self._rng.choice(self._known)
        pieces = await self._lines({**body, "stream": True}, most=None)
        self._check(f"{body} streamed {pieces}", "".join(pieces) == text)

    async def _cancelled(self) -> None:
        body, text = self._rng.choice(self._known)
        pieces = await self._lines({**body, "stream": True}, most=self._rng.randint(0, 4))
        self._check(f"{body} began {pieces}", text.startswith("".join(pieces)))

    async def _lines(self, body: dict[str, Any], *, most: int | None) -> list[str]:
        pieces: list[str] = []
        async with self._http.stream("POST", CHAT, json=body) as response:
            async for line in response.aiter_lines():
                if most is not None and len(pieces) >= most:
                    break
                if line.startswith("data: {"):
                    pieces.append(json.loads(line[6:])["choices"][0]["delta"].get("content", ""))
        return pieces

    async def _slow(self) -> None:
        body, text = self._rng.choice(self._known)
        raw = json.dumps({**body, "stream": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1024)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
        got = b""
        while piece := await reader.read(256):
            got += piece
            await asyncio.sleep(0.01)
        writer.close()
        pieces = re.findall(rb'"delta":(\{.*?\}),"logprobs"', got)
        found = "".join(json.loads(one).get("content", "") for one in pieces)
        self._check(f"{body} read slowly gave {found!r}", found == text)

    async def _too_long(self) -> None:
        raw = json.dumps({"messages": [{"role": "user", "content": "a" * (5 << 20)}]}).encode()
        try:
            answer = await self._http.post(CHAT, content=raw, headers={"Content-Type": "application/json"})
        except httpx2.TransportError:  # it hangs up before all is sent
            return
        self._check(f"5 MB gave {answer.status_code}", answer.status_code == 413)

    async def _no_json(self) -> None:
        answer = await self._http.post(
            CHAT, content=b'{"messages": [', headers={"Content-Type": "application/json"}
        )
        self._check(f"no JSON gave {answer.status_code}", answer.status_code == 400)


class Server:
    """The process of a server."""

    def __init__(self, model: str, port: int, threads: int) -> None:
        command = [str(Path(sys.executable).with_name("outpace")), "serve", "-m", model, "--port", str(port)]
        command += ["--alias", NAME, "--threads", str(threads)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1200):
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.1)
        raise SystemExit("the server does not answer")

    @property
    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        return 1024 * int(found[1]) if found else 0

    def kill(self) -> None:
        """At once."""
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """As it is meant to end; its status."""
        self._process.terminate()
        return self._process.wait(60)


async def soak(
    model: str, known: Sequence[tuple[dict[str, Any], str]], *, seconds: float, threads: int, seed: int = 0
) -> Soak:
    """All of it, for so long."""
    found = Soak()
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    server = Server(model, port, threads)
    end = time.monotonic() + seconds
    middle = time.monotonic() + seconds / 2
    asking = asyncio.create_task(Clients(port, known, found, seed).run(end))
    while not asking.done():
        if middle and time.monotonic() > middle:
            middle, found.down = 0.0, True
            server.kill()
            server = await asyncio.to_thread(Server, model, port, threads)
            await asyncio.sleep(1)  # what was under way has heard of it
            found.memory.append([])
            found.down = False
        found.memory[-1].append(server.memory)
        await asyncio.wait({asking}, timeout=0.5)
    await asking
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(100):
            text = (await client.get("/metrics")).text
            found.left = round(sum(map(float, re.findall(r"^outpace:num_requests_\w+\S* (\S+)", text, re.M))))
            if not found.left:
                break
            await asyncio.sleep(0.1)
    server.end()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    path = str(model_file(given.model))
    with outpace.load(path, threads=given.threads) as model:
        known = [
            (body, expected(model, body)) for body in bodies(random.Random(given.seed), 60, given.max_tokens)
        ]
    seconds = 60 * given.minutes
    found = asyncio.run(soak(path, known, seconds=seconds, threads=given.threads, seed=given.seed))
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.asked.most_common()))
    for number, (life, growth) in enumerate(zip(found.memory, found.growths(), strict=True), start=1):
        print(f"life {number}: {life[-1] / 2**20:.0f} MB resident, {growth:+.1%} after its first third")
    print(f"{len(found.wrong)} wrong, {found.left} left")
    for line in found.wrong[:10]:
        print(line[:400])
    if found.wrong or found.left or max(found.growths()) > MOST_GROWTH:
        sys.exit(1)


if __name__ == "__main__":
    main()
