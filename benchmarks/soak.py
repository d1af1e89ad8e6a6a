"""A server under everything at once, for a while: does it leak, get stuck, or answer wrongly?

    python -m benchmarks.soak --seconds 1800

Clients ask for texts, chats, JSON of a schema and calls of tools, up to three answers at once, so many as
chance says. Others leave before the first byte or in the midst of a stream, read byte by byte, stop reading,
and send half a request, bodies that are too long and what is no request. In the middle the server is killed
(SIGKILL) and started anew.

The status is 1 where an answer is not that of plain decoding, a request is left in the end, the server logs
an error or does not end as it should, or the resident memory of one of the two lives has grown by more than
3 % after its first third.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

import outpace
from benchmarks.side_by_side import model_file
from benchmarks.soak_answers import Known, known
from benchmarks.soak_clients import Clients, Heard

NAME = "soaked"
MOST_GROWTH = 0.03
PLACES = 256  # more than all clients can ask for at once
CACHE = ["--context-length", "512", "--cache-tokens", "4096"]
"""Little: it is soon full of texts that are kept, and its memory cannot grow for that reason any more."""


@dataclass
class Soak:
    """What happened. memory: resident bytes by life, a reading each half second; status: of the last end."""

    heard: Heard = field(default_factory=Heard)
    memory: list[list[int]] = field(default_factory=lambda: [[]])
    left: int = -1
    status: int = -1
    log: str = ""

    def growths(self) -> list[float]:
        """Of each life: the median of its last sixth against that behind its first third."""
        found = []
        for life in self.memory:
            third, sixth = len(life) // 3, max(1, len(life) // 6)
            before, after = life[third : third + sixth], life[-sixth:]
            found.append(statistics.median(after) / statistics.median(before) - 1)
        return found

    def violations(self) -> list[str]:
        """All that must not be, but for the growth of memory; a line for each."""
        found = list(self.heard.wrong)
        for number, right in enumerate(self.heard.right, start=1):
            if not right:
                found.append(f"life {number} has given no right answer")
        if self.left:
            found.append(f"{self.left} requests are left")
        if self.status not in (0, -signal.SIGTERM):
            found.append(f"the server ended with status {self.status}")
        if "Traceback" in self.log or " failed" in self.log:
            found.append(f"the server's log has errors: {self.log[-2000:]}")
        return found


class Server:
    """The process of a server. log: a file for what it says."""

    def __init__(self, model: str, port: int, threads: int, log: Path) -> None:
        command = [str(Path(sys.executable).with_name("outpace")), "serve", "-m", model, "--port", str(port)]
        command += ["--alias", NAME, "--threads", str(threads), "--places", str(PLACES)]
        command += CACHE
        with log.open("a") as lines:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=lines)
        for _ in range(1200):
            try:
                if httpx2.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.1)
        self.kill()
        raise SystemExit(f"the server does not answer: {log.read_text()[-2000:]}")

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


async def soak(model: str, asked: Sequence[Known], *, seconds: float, threads: int, seed: int = 0) -> Soak:
    """All of it, for so long."""
    found = Soak()
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        server = Server(model, port, threads, log)
        try:
            end = time.monotonic() + seconds
            middle = time.monotonic() + seconds / 2
            asking = asyncio.create_task(Clients(port, asked, found.heard, seed).run(end))
            while not asking.done():
                if middle and time.monotonic() > middle:
                    middle, found.heard.down = 0.0, True
                    server.kill()
                    server = await asyncio.to_thread(Server, model, port, threads, log)
                    await asyncio.sleep(1)  # what was under way has heard of it
                    found.memory.append([])
                    found.heard.right.append(Counter())
                    found.heard.down = False
                found.memory[-1].append(server.memory)
                await asyncio.wait({asking}, timeout=0.5)
            await asking
            found.left = await _left(port)
            found.status = server.end()
        finally:
            server.kill()
        found.log = log.read_text()
    return found


async def _left(port: int) -> int:
    """Requests that are there though nobody asks, after ten seconds at the most."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        for _ in range(100):
            text = (await client.get("/metrics")).text
            left = round(sum(map(float, re.findall(r"^outpace:num_requests_\w+\S* (\S+)", text, re.M))))
            if not left:
                break
            await asyncio.sleep(0.1)
    return left


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    path = str(model_file(given.model))
    with outpace.load(path, threads=given.threads) as model:
        asked = known(model, 80, given.max_tokens, seed=given.seed)
    found = asyncio.run(soak(path, asked, seconds=given.seconds, threads=given.threads, seed=given.seed))
    print(", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.heard.asked.most_common()))
    wrong = found.violations()
    lives = zip(found.memory, found.growths(), found.heard.right, strict=True)
    for number, (life, growth, right) in enumerate(lives, start=1):
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(right.items()))
        print(f"life {number}: right answers: {kinds}")
        print(
            f"life {number}: {life[len(life) // 3] / 2**20:.0f} MB resident after its first third, "
            f"{life[-1] / 2**20:.0f} MB in the end: {growth:+.1%}, accepted are {MOST_GROWTH:+.0%} at most"
        )
        if growth > MOST_GROWTH:
            wrong.append(f"the memory of life {number} has grown by {growth:.1%}")
    print(f"{len(wrong)} violations")
    for line in wrong[:10]:
        print(line[:2500])
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
