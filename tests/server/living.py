"""A server that lives in a thread, for tests that speak HTTP with it."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn

from outpace.models.text import Model, load
from outpace.server.app import create_app
from outpace.server.run import bound, open_house
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
    app = create_app(house, metrics, **options)
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5)
    )
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
