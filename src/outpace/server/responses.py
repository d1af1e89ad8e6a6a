"""POST /v1/responses, of texts: https://platform.openai.com/docs/api-reference/responses

Nothing is stored, so a request brings its whole conversation.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import Response
from pydantic import Field

from outpace.engine.request import Generation
from outpace.server.bodies import Body, Many, Text, Whole
from outpace.server.errors import Refused
from outpace.server.exchange import GONE, respond, unless_gone
from outpace.server.reached import house_of
from outpace.server.worker import Update

ROUTES = APIRouter(tags=["texts"])


class Item(Body):
    """A message of the conversation so far; what a client was answered may come back as it was."""

    type: Literal["message"] = "message"
    role: str
    content: Text | Many[Piece]
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class Piece(Body):
    """A part of a message. The annotations of an earlier answer change nothing."""

    type: Literal["input_text", "output_text"]
    text: Text
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class Plain(Body):
    """The form of a text."""

    type: Literal["text"] = "text"


class Format(Body):
    """What a text looks like."""

    format: Plain | None = None


class ResponsesBody(Body):
    """A text, or messages, to answer."""

    input: Text | Annotated[Many[Item], Field(min_length=1)]
    model: Text | None = None
    instructions: Text | None = None
    max_output_tokens: Whole | None = None
    temperature: float | None = None
    top_p: float | None = None
    stream: bool | None = None
    text: Format | None = None
    store: bool | None = Field(None, description="Nothing is stored, whatever is asked for.")
    truncation: Literal["disabled"] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: bool | None = None
    include: Annotated[list[Any], Field(max_length=0)] | None = None
    metadata: dict[Text, Text] | None = None
    user: str | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    def messages(self) -> list[dict[str, Any]]:
        """As the library takes them."""
        first = [] if self.instructions is None else [{"role": "system", "content": self.instructions}]
        if isinstance(self.input, str):
            return [*first, {"role": "user", "content": self.input}]
        return first + [{"role": _role(item.role), "content": _content(item)} for item in self.input]

    def text_options(self) -> dict[str, Any]:
        """As keyword arguments of `Model.request`."""
        given = {"temperature": self.temperature, "top_p": self.top_p}
        if self.max_output_tokens is not None and self.max_output_tokens < 1:
            message = f"max_output_tokens is {self.max_output_tokens}, accepted are whole numbers >= 1"
            raise Refused(message, param="max_output_tokens")
        options = {name: value for name, value in given.items() if value is not None}
        return {**options, "max_tokens": self.max_output_tokens}


@ROUTES.post("/v1/responses")
async def responses(body: ResponsesBody, http: Http) -> Response:
    """Answer a text or a conversation."""
    served = house_of(http).of(body.model)
    making = served.requests(body.messages(), body.text_options(), [secrets.randbits(64)])
    if (requests := await unless_gone(http, making)) is None:
        return Response(status_code=GONE)
    form = ResponsesForm(served.name, body)
    return await respond(http, form, served.start(requests), stream=bool(body.stream))


class ResponsesForm:
    """How an answer is written: one message of one text."""

    done = ""

    def __init__(self, model: str, body: ResponsesBody) -> None:
        self._item = f"msg_{secrets.token_hex(16)}"
        self._number = -1
        self._base: dict[str, Any] = {
            "id": f"resp_{secrets.token_hex(16)}",
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "parallel_tool_calls": True if body.parallel_tool_calls is None else body.parallel_tool_calls,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": [],
            "top_p": body.top_p,
            "truncation": "disabled",
            "usage": None,
        }

    def opening(self) -> list[dict[str, Any]]:
        """A response is there, and in it an empty message with an empty text."""
        begun = {**self._base, "status": "in_progress", "output": []}
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._message(None)),
            self._part("response.content_part.added", part=_text("")),
        ]

    def take(self, number: int, update: Update) -> None:
        """Nothing: the result has all of it."""

    def piece(self, number: int, update: Update) -> list[dict[str, Any]]:
        """The text that a step adds."""
        if not update.text:
            return []
        return [self._part("response.output_text.delta", delta=update.text, logprobs=[])]

    def closing(self, results: Sequence[Generation]) -> list[dict[str, Any]]:
        """Text, message and response are complete."""
        text, whole = results[0].text, self.whole(results)
        return [
            self._part("response.output_text.done", text=text, logprobs=[]),
            self._part("response.content_part.done", part=_text(text)),
            self._event("response.output_item.done", output_index=0, item=whole["output"][0]),
            self._event(f"response.{whole['status']}", response=whole),
        ]

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The response with its message."""
        result = results[0]
        cut = result.finish_reason == "length"
        usage = {
            "input_tokens": result.prompt_tokens,
            "input_tokens_details": {"cached_tokens": result.stats.cached_tokens},
            "output_tokens": len(result.token_ids),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": result.prompt_tokens + len(result.token_ids),
        }
        return {
            **self._base,
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self._message(result)],
            "usage": usage,
        }

    def _message(self, result: Generation | None) -> dict[str, Any]:
        status = "in_progress"
        if result is not None:
            status = "incomplete" if result.finish_reason == "length" else "completed"
        content = [] if result is None else [_text(result.text)]
        return {
            "type": "message",
            "id": self._item,
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number, **fields}

    def _part(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self._item, output_index=0, content_index=0, **fields)


def _text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _content(item: Item) -> str:
    if isinstance(item.content, str):
        return item.content
    return "".join(part.text for part in item.content)
