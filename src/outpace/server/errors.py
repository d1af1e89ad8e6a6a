"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} and a status.

https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from outpace.core.errors import GrammarError, OutpaceError, PromptTooLong, one_line
from outpace.server.worker import Busy, Closing, TimedOut

LOG = logging.getLogger("outpace.server")


class Refused(OutpaceError):
    """A request that is refused: its status, the field that is wrong, a code for programs."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@contextmanager
def named(fields: Collection[str]) -> Iterator[None]:
    """An error of the library is about the field that it names first, if it names one."""
    try:
        yield
    except (Refused, GrammarError, PromptTooLong, Busy, Closing):
        raise
    except OutpaceError as error:
        words = re.findall(r"\w+", str(error))
        raise Refused(str(error), param=next((word for word in words if word in fields), None)) from None


@contextmanager
def of_grammar(field: str) -> Iterator[None]:
    """What is wrong with a request's grammar is about the field that it is made of."""
    try:
        yield
    except GrammarError as error:
        raise Refused(str(error), param=field) from None


def error_body(
    message: str, status: int, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """The error object."""
    return {"error": {"message": one_line(message), "type": _TYPES.get(status, "invalid_request_error"),
                      "param": param, "code": code}}  # fmt: skip


def described(error: Exception) -> tuple[int, dict[str, Any]]:
    """(status, error object) of whatever a request ended with."""
    if isinstance(error, Refused):
        return error.status, error_body(str(error), error.status, error.param, error.code)
    for kind, status, code in _KINDS:
        if isinstance(error, kind):
            return status, error_body(str(error), status, code=code)
    return 500, error_body("the server failed on this request; its log says why", 500)


def answer(error: Exception) -> JSONResponse:
    """The response that an error becomes."""
    status, body = described(error)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body, status, headers)


def install(app: FastAPI) -> None:
    """Every error of an app becomes such an object."""

    @app.exception_handler(OutpaceError)
    async def ours(request: Request, error: OutpaceError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        param, message = first_of(error.errors())
        return JSONResponse(error_body(message, 400, param), 400)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse(
            error_body(str(error.detail), error.status_code), error.status_code, error.headers
        )

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return answer(error)  # the log has its traceback from uvicorn


def first_of(errors: Sequence[Any]) -> tuple[str | None, str]:
    """(field, message) of the first thing that is wrong with a body."""
    if not errors:
        return None, "the body is not what is accepted"
    first = errors[0]
    place = [str(part) for part in first["loc"] if part != "body"]
    field = ".".join(place) or None
    if first["type"] == "json_invalid":
        return None, "the body is not JSON"
    if first["type"] == "extra_forbidden":
        return field, f"{field} is not supported"
    if first["type"] == "missing":
        return field, f"{field or 'the body'} is missing"
    message = first["msg"].removeprefix("Value error, ")
    return field, message if field is None or field in message else f"{field}: {message}"


_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    408: "timeout_error",
}
_KINDS: tuple[tuple[type[Exception], int, str | None], ...] = (
    (Busy, 429, "busy"),
    (Closing, 503, "closing"),
    (TimedOut, 408, "timeout"),
    (PromptTooLong, 400, "context_length_exceeded"),
    (OutpaceError, 400, None),
)
