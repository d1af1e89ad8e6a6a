"""What stands before the routes: API keys, and a bound on bodies. Plain ASGI: streams stay streams."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from outpace.core.errors import OutpaceError
from outpace.server.errors import error_body
from outpace.server.pages import FILES

FREE = frozenset({"/health", "/v1/health", *FILES})
"""Paths that need no key. The page asks for one itself."""


def keys_in(path: Path) -> list[str]:
    """The keys of a file, one in every line. Raises an OutpaceError where there is none, and OSError."""
    try:
        found = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except UnicodeDecodeError:
        raise OutpaceError(f"{path} is not UTF-8 text, accepted is a key in every line") from None
    if not (keys := [key for key in found if key]):
        raise OutpaceError(f"{path} has no key, accepted is a key in every line")
    return keys


class Keys:
    """Lets those in who have one of the keys, as `Authorization: Bearer KEY`; all, where there are none."""

    def __init__(self, app: ASGIApp, keys: Sequence[str] = ()) -> None:
        self._app = app
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As every ASGI app."""
        if scope["type"] != "http" or not self._keys or scope["path"] in FREE or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        # Every key is compared, in time that does not depend on it.
        fits = [hmac.compare_digest(given.strip().encode(), key) for key in self._keys]
        if kind.lower() == "bearer" and any(fits):
            await self._app(scope, receive, send)
            return
        wrong = "the API key is wrong" if given else "an API key is missing"
        body = error_body(f"{wrong}, accepted is Authorization: Bearer KEY", 401, code="invalid_api_key")
        await JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})(scope, receive, send)


class Bounded:
    """Refuses bodies of more than so many bytes, whatever their header says."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As every ASGI app."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdecimal() and (len(said) > 15 or int(said) > self._most):
            response = JSONResponse(error_body(self._message(), 413), 413, {"Connection": "close"})
            await response(scope, receive, send)
            return
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise HTTPException(413, self._message())
            return message

        await self._app(scope, bounded, send)

    def _message(self) -> str:
        return f"the body is too long, accepted are {self._most} bytes"
