"""An answer on its way to a client: whole, or as server-sent events while it is written.

A form says how it looks (a chat's, a completion's); what is here is what all have in common. A client that
goes away cancels its requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from fastapi import Request as Http
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from outpace.engine.request import Generation
from outpace.server.errors import described
from outpace.server.serving import Answers
from outpace.server.worker import Update

LOG = logging.getLogger("outpace.server")
QUIET_S = 15.0  # without a word, after which a comment keeps proxies from hanging up
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
DONE = "data: [DONE]\n\n"
GONE = 499  # the status of what nobody waits for
R = TypeVar("R")


class Form(Protocol):
    """How the answers to one request of a client are written. `number` counts them.

    An object of a stream that has a "type" is an event of that name. done: what stands behind the last one.
    """

    done: str

    def opening(self) -> list[dict[str, Any]]:
        """The objects of a stream before any token is there."""

    def take(self, number: int, update: Update) -> object:
        """Takes in what a step adds, where nothing is streamed."""

    def piece(self, number: int, update: Update) -> list[dict[str, Any]]:
        """Takes in what a step adds; the objects of a stream for it."""

    def closing(self, results: Sequence[Generation]) -> list[dict[str, Any]]:
        """Those behind the last step of the last answer."""

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The one object of an answer; `take` or `piece` has seen all of it."""


async def respond(http: Http, form: Form, answers: Answers, *, stream: bool) -> Response:
    """The response to a client."""
    if stream:
        return _Streamed(form, answers)
    with answers:
        results = await unless_gone(http, _collect(form, answers))
        return Response(status_code=GONE) if results is None else JSONResponse(form.whole(results))


class _Streamed(StreamingResponse):
    """The events of answers, which are cancelled however it ends: also where it never begins to send."""

    def __init__(self, form: Form, answers: Answers) -> None:
        super().__init__(_events(form, answers), media_type="text/event-stream", headers=HEADERS)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As every ASGI app."""
        with self._answers:
            await super().__call__(scope, receive, send)


async def _collect(form: Form, answers: Answers) -> list[Generation]:
    results: dict[int, Generation] = {}
    while (following := await answers.following()) is not None:
        number, update = following
        form.take(number, update)
        if update.result is not None:
            results[number] = update.result
    return [results[number] for number in sorted(results)]


async def _events(form: Form, answers: Answers) -> AsyncIterator[str]:
    results: dict[int, Generation] = {}
    try:
        for one in form.opening():
            yield _event(one)
        while not answers.over:
            if (following := await answers.following(QUIET_S)) is None:
                yield ": still at work\n\n"
                continue
            number, update = following
            for one in form.piece(number, update):
                yield _event(one)
            if update.result is not None:
                results[number] = update.result
        for one in form.closing([results[number] for number in sorted(results)]):
            yield _event(one)
    except Exception as error:
        status, body = described(error)
        if status == 500:
            LOG.exception("a stream failed")
        yield _event(body)
        return
    yield form.done


async def unless_gone(http: Http, work: Coroutine[Any, Any, R]) -> R | None:
    """What the work gives; None where the client goes away before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        gone.cancel()
        task.cancel()


async def _gone(http: Http) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def _event(value: dict[str, Any]) -> str:
    name = f"event: {value['type']}\n" if "type" in value else ""
    return f"{name}data: {json.dumps(value, ensure_ascii=False, separators=(',', ':'))}\n\n"
