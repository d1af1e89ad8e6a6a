"""A server that lives in a thread, for tests that speak HTTP with it."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from outpace.models.text import Model, load
from outpace.server.run import bound, open_house, server_of
from outpace.server.serving import House, Settings
from tests.fake_models import write_gguf

NAME = "tiny"
CONTEXT = 512


class Living(NamedTuple):
    """A server that answers, and what is in it."""

    url: str
    port: int
    house: House

    @property
    def model(self) -> Model:
        """The model that it serves."""
        return self.house.of(NAME).model

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """(status, headers, JSON or text). A body that is no bytes is sent as JSON."""
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        given = {"Content-Type": "application/json"} | (headers or {})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, raw, given)
            response = connection.getresponse()
            text = response.read().decode()
            names = {name.lower(): value for name, value in response.getheaders()}
            return (
                response.status,
                names,
                json.loads(text) if "json" in names.get("content-type", "") else text,
            )
        finally:
            connection.close()


def tiny_gguf(folder: Path) -> Path:
    """A model of random weights that writes as it likes, quickly."""
    path = folder / f"{NAME}.gguf"
    if not path.exists():
        write_gguf(path, "llama", tensor_type="Q8_0", max_position_embeddings=CONTEXT)
    return path


@contextmanager
def living(folder: Path, settings: Settings | None = None, **options: Any) -> Iterator[Living]:
    """A server of the tiny model, for as long as the block takes."""
    path = tiny_gguf(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        house, metrics = open_house(
            [str(path)], [NAME], lambda source: load(source, threads=1), settings or Settings()
        )
    # What it has to say must not stand in what another test of this process prints.
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())
    place = bound("127.0.0.1", 0)
    port = place.getsockname()[1]
    server = server_of(house, metrics, grace_s=5, **options)
    thread = threading.Thread(target=server.run, args=([place],))
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield Living(f"http://127.0.0.1:{port}/v1", port, house)
    finally:
        server.should_exit = True
        thread.join()
        place.close()


def sent(server: Living, path: str, body: Any, *, receives: int | None = None) -> socket.socket:
    """A connection on which a request has been sent, and nothing read. receives: bytes that it holds."""
    raw = json.dumps(body).encode()
    line = socket.socket()
    line.settimeout(30)
    if receives is not None:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    line.connect(("127.0.0.1", server.port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    line.sendall(f"{head}Content-Length: {len(raw)}\r\n\r\n".encode() + raw)
    return line


def within(seconds: float, fits: Callable[[], bool]) -> bool:
    """Whether something comes true in so many seconds."""
    end = time.monotonic() + seconds
    while not fits() and time.monotonic() < end:
        time.sleep(0.01)
    return fits()


class Steps:
    """Counts the steps of a server's engine, and lets each take 10 ms."""

    def __init__(self, server: Living, patch: pytest.MonkeyPatch) -> None:
        self.count = 0
        engine = server.house.of(NAME).worker._engine
        step = engine.step

        def slow() -> Any:
            self.count += 1
            time.sleep(0.01)
            return step()

        patch.setattr(engine, "step", slow)
