"""The front of several servers: it lets requests in, passes them on, and adds up what the servers count."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from outpace.serve.sent import Sent
from outpace.server import errors
from outpace.server.app import guard

LOG = logging.getLogger("outpace.server")


class Servers(Protocol):
    """The servers behind a front."""

    def answer(self, sent: Sent) -> AsyncGenerator[Message, None]:
        """What one of them answers, as ASGI has it. Raises an OutpaceError where none can."""

    async def metrics(self) -> Mapping[str, Sequence[Metric]]:
        """What each of them counts, by its name."""


def create_front(servers: Servers, **guards: Any) -> FastAPI:
    """An ASGI app that passes all requests on. `guards` are the options of `server.app.guard`."""
    # Its own descriptions would hide those of the servers.
    front = FastAPI(title="Outpace", openapi_url=None)

    @front.get("/metrics")
    async def metrics() -> Response:
        return Response(counted(await servers.metrics()), media_type=CONTENT_TYPE_LATEST)

    front.router.routes.append(Route("/{path:path}", _Passing(servers)))
    errors.install(front)
    guard(front, **guards)
    return front


class _Passing:
    """An ASGI app that is one of several servers, each time another one."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As every ASGI app."""
        sent = Sent.of(scope, await Request(scope, receive).body())
        kind = ""
        async with aclosing(self._servers.answer(sent)) as answer:
            try:
                async for message in answer:
                    if message["type"] == "http.response.start":
                        kind = Headers(raw=list(message["headers"])).get("content-type", "")
                    await send(message)
            except Exception as error:
                if not kind.startswith("text/event-stream"):
                    raise
                # A stream that only stops looks like one that has come to its end.
                LOG.exception("a stream failed")
                _, body = errors.described(error)
                said = f"data: {json.dumps(body)}\n\n".encode()
                await send({"type": "http.response.body", "body": said, "more_body": False})


def counted(parts: Mapping[str, Sequence[Metric]]) -> bytes:
    """The counters of all servers as Prometheus reads them; the label `replica` tells them apart."""
    families: dict[str, Metric] = {}
    for replica, metrics in parts.items():
        for one in metrics:
            family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
            family.samples += [
                sample._replace(labels={**sample.labels, "replica": replica}) for sample in one.samples
            ]
    registry = CollectorRegistry()
    registry.register(_Fixed(list(families.values())))
    return generate_latest(registry)


class _Fixed(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return iter(self._metrics)
