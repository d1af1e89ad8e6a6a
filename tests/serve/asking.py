"""Requests to apps, without a connection."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NamedTuple, Self

from starlette.types import ASGIApp, Message

from outpace.serve.sent import Sent, messages
from outpace.server.app import create_app
from outpace.server.metrics import Metrics
from outpace.server.serving import House


class Server(NamedTuple):
    """The app of a server, and what is in it."""

    app: ASGIApp
    house: House
    metrics: Metrics

    @classmethod
    def of(cls, house: House, metrics: Metrics) -> Self:
        """The server of models that are open."""
        return cls(create_app(house, metrics), house, metrics)


class Answer(NamedTuple):
    """What an app has answered."""

    status: int
    headers: dict[str, str]
    pieces: list[bytes]

    @property
    def text(self) -> str:
        """The whole body."""
        return b"".join(self.pieces).decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)

    def events(self) -> list[Any]:
        """The objects of a stream, and what else its events say."""
        found = [line[6:] for line in self.text.splitlines() if line.startswith("data: ")]
        return [json.loads(one) if one.startswith("{") else one for one in found]


def request(method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Sent:
    """A request. A body that is no bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    given = {"content-type": "application/json", "content-length": str(len(raw))} | (headers or {})
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    return Sent.of(scope, raw)


def ask(app: ASGIApp, *request_: Any, **more: Any) -> Answer:
    """The whole answer to a request (see `request`)."""

    async def collect() -> list[Message]:
        return [message async for message in messages(app, request(*request_, **more))]

    first, *others = asyncio.run(collect())
    headers = {name.decode(): value.decode() for name, value in first["headers"]}
    return Answer(first["status"], headers, [one.get("body", b"") for one in others])
