"""POST /v1/chat/completions: https://platform.openai.com/docs/api-reference/chat"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import Response

from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.engine.trace import Trace
from outpace.files.tokenizer import Tokenizer
from outpace.models.grammar import Grammar
from outpace.server import replies
from outpace.server.bodies import ChatBody
from outpace.server.errors import Refused, named, of_grammar
from outpace.server.exchange import DONE, GONE, respond, unless_gone
from outpace.server.reached import house_of
from outpace.server.tools import (
    Arguments,
    CallBegins,
    Content,
    Delta,
    LastCall,
    Reader,
    ToolUse,
    template_messages,
    tool_use,
)
from outpace.server.worker import Update

ROUTES = APIRouter(tags=["texts"])
TAIL = 16  # tokens of a prompt's end, which may have begun what the answer goes on with


@ROUTES.post("/v1/chat/completions")
async def chat_completions(body: ChatBody, http: Http) -> Response:
    """Answer a conversation."""
    served = house_of(http).of(body.model)
    tokenizer = served.model.tokenizer
    source = getattr(served.model.chat, "source", None)
    tools = [tool.model_dump(exclude_unset=True) for tool in body.tools or ()]
    given = [message.model_dump(exclude_unset=True) for message in body.messages]
    with named(ChatBody.model_fields):
        options = body.text_options()
        use = tool_use(
            source,
            tokenizer,
            tools=tools,
            tool_choice=body.tool_choice,
            parallel_tool_calls=body.parallel_tool_calls,
        )
        messages = use.messages(template_messages(given, source or ""))
    if use.variables:
        about = options.get("chat_template_kwargs", served.defaults.get("chat_template_kwargs", {}))
        options["chat_template_kwargs"] = {**about, **use.variables}
    options["show_tokens"] = sorted(use.shown)
    if use.forces and "grammar" in options:
        message = "tool_choice forces a call and response_format another text, accepted is one of them"
        raise Refused(message, param="tool_choice")

    def forced(prompt: Sequence[int]) -> Grammar:
        rules = use.grammar(_tail(tokenizer, prompt))
        assert rules is not None, "it forces a call"
        return Grammar.lark(rules)

    asked = "tools" if use.forces else body.grammar_field
    with of_grammar(asked):
        making = served.requests(messages, options, body.seeds(), forced=forced if use.forces else None)
        if (requests := await unless_gone(http, making)) is None:
            return Response(status_code=GONE)
    tail = _tail(tokenizer, requests[0][0].prompt)
    if use.most_calls is not None:
        requests = [(_with_last_call(request, use, tokenizer, tail), text) for request, text in requests]
    trace = served.trace(body.stop, shown=use.shown) if body.trace else None
    form = ChatForm(served.name, tokenizer, body, [use.reader(tail) for _ in requests], trace)
    answers = served.start(requests, timeout=body.timeout)
    with of_grammar(asked):
        return await respond(http, form, answers, stream=bool(body.stream))


def _tail(tokenizer: Tokenizer, prompt: Sequence[int]) -> str:
    return tokenizer.decode(list(prompt[-TAIL:]), skip_special_tokens=False)


def _with_last_call(request: Request, use: ToolUse, tokenizer: Tokenizer, tail: str) -> Request:
    """The request, which ends with the last call that it may make: no word behind it would be said."""
    text = TextStream(tokenizer, shown=use.shown)
    return replace(request, stops=LastCall(use.reader(tail), text, len(request.prompt)))


@dataclass(slots=True)
class Choice:
    """One of the answers: what has come of it."""

    reader: Reader
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def take(self, delta: Delta) -> dict[str, Any]:
        """Adds what a reader says; gives it as the delta of a stream."""
        if isinstance(delta, Content):
            self.content += delta.text
            return {"content": delta.text}
        if isinstance(delta, CallBegins):
            begun = {"name": delta.name, "arguments": ""}
            call = {"id": delta.id, "type": "function", "function": begun}
            self.calls.append({**call, "function": {**begun}})
            return {"tool_calls": [{"index": delta.index, **call}]}
        assert isinstance(delta, Arguments)
        self.calls[delta.index]["function"]["arguments"] += delta.text
        return {"tool_calls": [{"index": delta.index, "function": {"arguments": delta.text}}]}

    def message(self) -> dict[str, Any]:
        """The whole."""
        content = self.content if self.content or not self.calls else None
        calls = {"tool_calls": self.calls} if self.calls else {}
        return {"role": "assistant", "content": content, "refusal": None, **calls}

    def finish(self, reason: str) -> str:
        """Why it ended, as clients read it."""
        return "tool_calls" if self.calls and reason == "stop" else reason


class ChatForm:
    """How answers of a chat are written. trace: collects what is drafted, where that is wanted."""

    done = DONE

    def __init__(
        self,
        model: str,
        tokenizer: Tokenizer,
        body: ChatBody,
        readers: Sequence[Reader],
        trace: Trace | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._usage = body.usage_wanted
        self._logprobs = bool(body.logprobs)
        self._base = replies.head("chat.completion.chunk", "chatcmpl", model)
        self._choices = [Choice(reader) for reader in readers]
        self._trace = trace

    def opening(self) -> list[dict[str, Any]]:
        """Who speaks."""
        numbers = range(len(self._choices))
        return [self._chunk(number, {"role": "assistant", "content": ""}) for number in numbers]

    def take(self, number: int, update: Update) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Takes in what a step adds; the deltas of it, and the step of the trace where there is one."""
        choice, trace = self._choices[number], None
        if self._trace is not None and update.event is not None:
            trace = self._trace.add(update.event, last=update.is_last)
        said = choice.reader.push(update.text) + (choice.reader.finish() if update.result else [])
        return [choice.take(delta) for delta in said], trace

    def piece(self, number: int, update: Update) -> list[dict[str, Any]]:
        """What a step adds, and the end."""
        (deltas, trace), result = self.take(number, update), update.result
        first: dict[str, Any] = {} if trace is None else {"trace": trace}
        if self._logprobs and update.logprobs:
            first["logprobs"] = replies.chat_logprobs(self._tokenizer, update.logprobs)
        if first and not deltas:
            deltas = [{"content": ""}]
        made = [self._chunk(number, delta, **(first if not at else {})) for at, delta in enumerate(deltas)]
        if result is not None:
            reason = self._choices[number].finish(result.finish_reason)
            made.append(self._chunk(number, {}, reason, timings=replies.timings(result)))
        return made

    def closing(self, results: Sequence[Generation]) -> list[dict[str, Any]]:
        """The counts, where they are wanted."""
        return [replies.chunk(self._base, [], usage=replies.usage(results))] if self._usage else []

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        """The conversation's next message, n times."""
        choices = [
            {
                "index": number,
                "message": choice.message(),
                "logprobs": replies.chat_logprobs(self._tokenizer, result.logprobs),
                "finish_reason": choice.finish(result.finish_reason),
            }
            for number, (choice, result) in enumerate(zip(self._choices, results, strict=True))
        ]
        base = {**self._base, "object": "chat.completion"}
        timings = replies.timings(results[0])
        more = {} if self._trace is None else {"trace": self._trace.whole()}
        return replies.chunk(base, choices, usage=replies.usage(results), timings=timings, **more)

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
