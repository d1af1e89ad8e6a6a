"""POST /v1/completions: https://platform.openai.com/docs/api-reference/completions"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from fastapi import Request as Http
from fastapi.responses import Response

from outpace.engine.request import Generation
from outpace.files.tokenizer import Tokenizer
from outpace.server import replies
from outpace.server.bodies import CompletionBody
from outpace.server.errors import of_grammar
from outpace.server.exchange import DONE, GONE, respond, unless_gone
from outpace.server.reached import house_of
from outpace.server.serving import prompt_of
from outpace.server.worker import Update

ROUTES = APIRouter(tags=["texts"])


@ROUTES.post("/v1/completions")
async def completions(body: CompletionBody, http: Http) -> Response:
    """Continue a text, or several. Special tokens that are written in it are tokens."""
    served = house_of(http).of(body.model)
    options, seeds, prompts = body.text_options(), body.seeds(), body.prompts()
    served.worker.check_room(len(prompts) * len(seeds))
    requests, echoes = [], []
    for prompt in prompts:
        about = {"raw": True, "parse_special": True} if isinstance(prompt, str) else {}
        with of_grammar(body.grammar_field):
            made = await unless_gone(http, served.requests(prompt_of(prompt), {**options, **about}, seeds))
        if made is None:
            return Response(status_code=GONE)
        requests += made
        if isinstance(prompt, list):
            prompt = served.model.tokenizer.decode(prompt) if body.echo else ""
        echoes += [prompt if body.echo else ""] * len(seeds)
    form = CompletionForm(served.name, served.model.tokenizer, body, echoes, len(seeds))
    answers = served.start(requests, timeout=body.timeout)
    with of_grammar(body.grammar_field):
        return await respond(http, form, answers, stream=bool(body.stream))


class CompletionForm:
    """How continued texts are written. echoes: what is before each; per_prompt: how many share a prompt."""

    done = DONE

    def __init__(
        self, model: str, tokenizer: Tokenizer, body: CompletionBody, echoes: list[str], per_prompt: int
    ) -> None:
        self._tokenizer = tokenizer
        self._usage = body.usage_wanted
        self._logprobs = body.logprobs is not None
        self._echoes = echoes
        self._offsets = [len(echo) for echo in echoes]
        self._per_prompt = per_prompt
        self._base = replies.head("text_completion", "cmpl", model)

    def opening(self) -> list[dict[str, Any]]:
        """The prompts, where they are wanted."""
        return [self._chunk(number, echo) for number, echo in enumerate(self._echoes) if echo]

    def take(self, number: int, update: Update) -> None:
        """Nothing: the results have all of it."""

    def piece(self, number: int, update: Update) -> list[dict[str, Any]]:
        """The text that a step adds, and the end."""
        logprobs = None
        if self._logprobs:
            logprobs = replies.completion_logprobs(self._tokenizer, update.logprobs, self._offsets[number])
            self._offsets[number] += sum(map(len, logprobs["tokens"])) if logprobs else 0
        result = update.result
        if not (update.text or result or (logprobs and logprobs["tokens"])):
            return []
        more = {} if result is None else {"timings": replies.timings(result)}
        finish = None if result is None else result.finish_reason
        return [self._chunk(number, update.text, finish, logprobs=logprobs, **more)]

    def closing(self, results: Sequence[Generation]) -> list[dict[str, Any]]:
        """The counts, where they are wanted."""
        return [replies.chunk(self._base, [], usage=self._counts(results))] if self._usage else []

    def whole(self, results: Sequence[Generation]) -> dict[str, Any]:
        """All texts."""
        choices = []
        for number, result in enumerate(results):
            echo = self._echoes[number]
            logprobs = replies.completion_logprobs(self._tokenizer, result.logprobs, len(echo))
            choices.append(_choice(number, echo + result.text, result.finish_reason, logprobs))
        timings = replies.timings(results[0])
        return replies.chunk(self._base, choices, usage=self._counts(results), timings=timings)

    def _counts(self, results: Sequence[Generation]) -> dict[str, Any]:
        return replies.usage(results, per_prompt=self._per_prompt)

    def _chunk(
        self, number: int, text: str, finish: str | None = None, *, logprobs: Any = None, **more: Any
    ) -> dict[str, Any]:
        usage = {"usage": None} if self._usage else {}
        return replies.chunk(self._base, [_choice(number, text, finish, logprobs)], **usage, **more)


def _choice(number: int, text: str, finish: str | None, logprobs: Any) -> dict[str, Any]:
    return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": finish}
