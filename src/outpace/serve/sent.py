"""A request on its way to one of several servers, and what a server answers to it.

Sent      a request without its connection; pickle takes it
messages  what an app answers, as ASGI has it
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

LOG = logging.getLogger("outpace.server")
FIELDS = (
    "type",
    "asgi",
    "http_version",
    "method",
    "scheme",
    "path",
    "raw_path",
    "query_string",
    "root_path",
    "headers",
    "client",
    "server",
)
"""Those of a scope that a server gives; the others belong to the app that has it."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A request.

    prompt  the text that an answer goes on with, as far as a router needs it; "" where there is none.
    """

    scope: Mapping[str, Any]
    body: bytes
    prompt: str

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> Sent:
        """The request with this scope and this whole body."""
        return cls({name: scope[name] for name in FIELDS if name in scope}, body, prompt_of(body))


def prompt_of(body: bytes) -> str:
    """The text of a body's messages, prompt or input; "" for a body that is wrong, which the server says."""
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(given, dict):
        return ""
    for fields in (("messages",), ("prompt",), ("instructions", "input")):
        if text := "".join(_text(given.get(field)) for field in fields):
            return text
    return ""


def _text(value: Any) -> str:
    """All texts in messages and their parts. Of token ids each is a character: a prefix stays a prefix."""
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return chr(value % 0xD800)
    if isinstance(value, list):
        return "".join(map(_text, value))
    if isinstance(value, dict):
        return _text(value.get("text", value.get("content")))
    return ""


async def messages(app: ASGIApp, sent: Sent) -> AsyncGenerator[Message, None]:
    """What an app sends. To close it is to go away as a client; raises what the app raises."""
    made: asyncio.Queue[Message | None] = asyncio.Queue()
    requests: list[Message] = [{"type": "http.request", "body": sent.body, "more_body": False}]

    async def receive() -> Message:
        if requests:
            return requests.pop()
        await asyncio.Event().wait()  # until the task is cancelled, which is how a client goes away
        raise AssertionError

    async def run() -> None:
        try:
            await app(dict(sent.scope), receive, made.put)
        finally:
            made.put_nowait(None)

    task = asyncio.create_task(run())
    is_whole = False
    try:
        while (message := await made.get()) is not None:
            is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            yield message
        try:
            await task
        except Exception:
            if not is_whole:
                raise
            LOG.exception("a request failed")  # its answer says so
    finally:
        task.cancel()
