"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import Response

from outpace.engine.logprobs import TokenLogprob
from outpace.engine.request import Generation
from outpace.files.tokenizer import Tokenizer
from outpace.server import replies
from outpace.server.bodies import ChatBody
from outpace.server.exchange import DONE, respond
from outpace.server.reached import house_of
from outpace.server.worker import Update

ROUTES = APIRouter(tags=["texts"])


@ROUTES.post("/v1/chat/completions")
async def chat_completions(body: ChatBody, http: Http) -> Response:
    """Answer a conversation."""
    served = house_of(http).of(body.model)
    messages = [message.model_dump(exclude_unset=True) for message in body.messages]
    requests = await served.requests(messages, body.text_options(), body.seeds())
    form = ChatForm(served.name, served.model.tokenizer, body, len(requests))
    return await respond(http, form, served.start(requests, timeout=body.timeout), stream=bool(body.stream))


class ChatForm:
    """How answers of a chat are written."""

    done = DONE

    def __init__(self, model: str, tokenizer: Tokenizer, body: ChatBody, count: int) -> None:
        self._tokenizer = tokenizer
        self._usage = body.usage_wanted
        self._logprobs: list[list[TokenLogprob]] | None = (
            [[] for _ in range(count)] if body.logprobs else None
        )
        self._base = replies.head("chat.completion.chunk", "chatcmpl", model)
        self._count = count

    def opening(self) -> list[dict[str, Any]]:
        """Who speaks."""
        return [self._chunk(number, {"role": "assistant", "content": ""}) for number in range(self._count)]

    def piece(self, number: int, update: Update) -> list[dict[str, Any]]:
        """The text that a step adds, and the end."""
        found = None
        if self._logprobs is not None:
            self._logprobs[number] += update.logprobs
            found = update.logprobs
        made = []
        if update.text or found:
            logprobs = replies.chat_logprobs(self._tokenizer, found)
            made.append(self._chunk(number, {"content": update.text}, logprobs=logprobs))
        if (result := update.result) is not None:
            made.append(self._chunk(number, {}, result.finish_reason, timings=replies.timings(result)))
        return made

    def closing(self, results: Sequence[Generation]) -> list[dict[str, Any]]:
        """The counts, where they are wanted."""
        return [replies.chunk(self._base, [], usage=replies.usage(results))] if self._usage else []

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The conversation's next message, n times."""
        choices = []
        for number, result in enumerate(results):
            found = None if self._logprobs is None else self._logprobs[number]
            choices.append(
                {
                    "index": number,
                    "message": {"role": "assistant", "content": result.text, "refusal": None},
                    "logprobs": replies.chat_logprobs(self._tokenizer, found),
                    "finish_reason": result.finish_reason,
                }
            )
        base = {**self._base, "object": "chat.completion"}
        timings = replies.timings(results[0])
        return replies.chunk(base, choices, usage=replies.usage(results), timings=timings)

    def _chunk(
        self,
        number: int,
        delta: dict[str, Any],
        finish: str | None = None,
        *,
        logprobs: Any = None,
        **more: Any,
    ) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        usage = {"usage": None} if self._usage else {}
        return replies.chunk(self._base, [choice], **usage, **more)
