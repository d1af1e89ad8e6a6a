"""The models that are served, and an answer of one of them while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Self

from outpace.core.call import Prompt
from outpace.core.errors import GrammarError, OutpaceError, PromptTooLong
from outpace.core.options import shown, taken
from outpace.drafters.forced import with_forced
from outpace.engine.engine import Engine
from outpace.engine.prefixes import prefixes_of
from outpace.engine.request import Request
from outpace.engine.text import TextStream
from outpace.engine.trace import Trace
from outpace.models.face import rule_of
from outpace.models.grammar import Grammar
from outpace.models.options import Text, TextOptions, sampling_of
from outpace.models.text import Model
from outpace.pricing.clock import now
from outpace.pricing.pace import pace_of
from outpace.server.errors import Refused, named
from outpace.server.lines import Lines
from outpace.server.metrics import Metrics
from outpace.server.worker import Ticket, Update, Worker

MOST_GRAMMAR = 1 << 16  # letters: what compiling takes grows faster than a grammar


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for all requests.

    draft     a drafter's name; None for the model's own choice, "none" for plain decoding.
    rows      the most requests of a model that run side by side; the others wait in order of age.
    places    the most requests of a model at once; those that find no place are refused.
    timeout   the most seconds that a request may take, waiting included.
    defaults  options of requests that do not name them, as keyword arguments of `Model.request`.
    """

    draft: str | None = None
    rows: int = 16
    places: int = 64
    timeout: float = 600.0
    defaults: Mapping[str, Any] | None = None


DEFAULTS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
    "chat_template_kwargs",
)


def check_defaults(defaults: Mapping[str, Any], said: str) -> None:
    """Raise an OutpaceError for defaults that no request may have. said: the option that names them."""
    if unknown := [name for name in defaults if name not in DEFAULTS]:
        raise OutpaceError(f"{said} names {unknown[0]}, accepted are {', '.join(DEFAULTS)}")
    given = dict(defaults)
    sampling_of(given)
    taken(TextOptions, given)


class Served:
    """A model under its name. All its requests share one engine, which a thread of its own steps."""

    def __init__(self, name: str, model: Model, settings: Settings, metrics: Metrics) -> None:
        self.name = name
        self.model = model
        self.settings = settings
        self.defaults = dict(settings.defaults or {})
        self.draft = model.own_draft if settings.draft is None else settings.draft
        model.prepare(self.draft, tree=None, rule="match")
        watches = metrics.watch(name), Lines(name)
        self._longest = max(map(len, map(model.tokenizer.token_bytes, range(model.target.vocab_size))))
        # Some grammars take seconds. Others wait for them, and nobody else does.
        self._compiling = ThreadPoolExecutor(1, "outpace-grammars")
        self.worker = Worker(self._engine, places=settings.places, watches=watches)
        metrics.count_here(name, self.worker)

    def _engine(self) -> Engine:
        drafter = self.model.drafter(self.draft)
        return Engine(
            self.model.target,
            with_forced(drafter),
            rule_of("match"),
            pace=pace_of(drafter),
            prefixes=prefixes_of(self.model.target),
            most_rows=self.settings.rows,
        )

    async def requests(
        self,
        prompt: Text,
        options: Mapping[str, Any],
        seeds: Sequence[int],
        *,
        forced: Callable[[Prompt], Grammar] | None = None,
    ) -> list[tuple[Request, TextStream | None]]:
        """A request for every seed. Raises Busy, Closing, and an OutpaceError for what cannot be honoured.

        forced  what the texts have to follow, which depends on the tokens of the prompt.
        In a thread: a long text takes a while to become tokens, and others must not wait for it.
        """
        given = {"temperature": 1.0, **self.defaults, **options}
        if given.get("raw") or isinstance(prompt, Prompt):
            given.pop("chat_template_kwargs", None)  # a default, which concerns chats alone
        budget = given.pop("budget", None)

        def make() -> list[tuple[Request, TextStream | None]]:
            told = prompt
            self._check_letters(prompt)
            if forced is not None:
                variables = given.pop("chat_template_kwargs", None)
                told = Prompt(self.model.prompt_ids(prompt, chat_template_kwargs=variables))
                given["grammar"] = forced(told)
            if "grammar" in given:
                _check_size(given["grammar"])
            made = []
            for seed in seeds:
                made.append(self.model.request(told, **{**given, "seed": seed}))
                made[-1][0].check(self.model.target)
            if budget is None:
                return made
            return [(replace(request, budget=min(budget, request.budget)), text) for request, text in made]

        self.worker.check_room(len(seeds))
        thread = self._compiling if forced is not None or "grammar" in given else None
        with named(TextOptions.__annotations__):
            return await asyncio.get_running_loop().run_in_executor(thread, make)

    def _check_letters(self, prompt: Text) -> None:
        """Raise PromptTooLong for letters that no tokens of a context hold: reading them takes seconds."""
        if isinstance(prompt, Prompt):
            return
        texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
        letters, length = sum(map(len, texts)), self.model.target.context_length
        if letters > length * self._longest:
            held = f"{length} tokens of {self._longest} letters at most"
            raise PromptTooLong(f"the prompt has {letters} letters, the context holds {held}")

    def start(
        self, requests: Sequence[tuple[Request, TextStream | None]], *, timeout: float | None = None
    ) -> Answers:
        """The answers to them, from now on. Raises Busy or Closing."""
        seconds = min(timeout or self.settings.timeout, self.settings.timeout)
        return Answers(self.worker, requests, deadline=now() + seconds)

    def close(self) -> None:
        """End all answers and close the model."""
        self.worker.close()
        self._compiling.shutdown(wait=False, cancel_futures=True)
        self.model.close()

    def trace(self, stop: str | Sequence[str] | None, *, shown: frozenset[int] = frozenset()) -> Trace:
        """The trace of an answer in a chat, with the stop strings and the shown tokens of its request."""
        model = self.model
        said = TextStream(model.tokenizer, stop=() if stop is None else stop, shown=shown)
        return Trace(said, model.tokenizer, model.target.eos_ids, model=self.name, draft=self.draft)

    def tokens_of(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        """The token ids of a text."""
        return self.model.tokenizer.encode(text, add_special_tokens=add_special, parse_special=parse_special)

    def check_tokens(self, tokens: Sequence[int], field: str) -> None:
        """Raise a Refused for ids that the model does not have."""
        most = self.model.target.vocab_size - 1
        if tokens and max(tokens) > most:
            message = f"{field} has the token {max(tokens)}, accepted are ids from 0 to {most}"
            raise Refused(message, param=field)


class Answers:
    """What comes of requests that were sent together: updates by the number of the request.

    Leave it by `close`, which cancels what is not at its end.
    """

    def __init__(
        self, worker: Worker, requests: Sequence[tuple[Request, TextStream | None]], *, deadline: float
    ) -> None:
        self._worker = worker
        self._updates: asyncio.Queue[tuple[int, Update]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.tickets = [
            Ticket(request, text, self._listener(number), deadline)
            for number, (request, text) in enumerate(requests)
        ]
        worker.submit(self.tickets)
        self._open = len(self.tickets)

    def _listener(self, number: int) -> Any:
        def tell(update: Update) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._updates.put_nowait, (number, update))

        return tell

    @property
    def over(self) -> bool:
        """Whether no update follows."""
        return not self._open

    async def following(self, within: float | None = None) -> tuple[int, Update] | None:
        """The next update; None after so many seconds without one, and behind the last.

        Raises the error of a request that fails.
        """
        if self.over:
            return None
        try:
            async with asyncio.timeout(within):
                number, update = await self._updates.get()
        except TimeoutError:
            return None
        if update.error is not None:
            raise update.error
        self._open -= update.is_last
        return number, update

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel all that has not ended."""
        if self._open:
            self._open = 0
            for ticket in self.tickets:
                self._worker.cancel(ticket)


class House:
    """The served models by name."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = {one.name: one for one in served}

    def of(self, name: str | None) -> Served:
        """The model of a request; the only one there is, where none is named. Raises Refused."""
        if name is None and len(self.served) == 1:
            return next(iter(self.served.values()))
        accepted = ", ".join(self.served)
        if name is None:
            raise Refused(f"model is missing, accepted are {accepted}", param="model")
        if name not in self.served:
            message = f"there is no model {shown(name)}, accepted are {accepted}"
            raise Refused(message, status=404, param="model", code="model_not_found")
        return self.served[name]

    @property
    def is_open(self) -> bool:
        """Whether all of them take requests."""
        return all(one.worker.is_open for one in self.served.values())

    def close(self) -> None:
        """End all answers and close the models."""
        for one in self.served.values():
            one.close()


def _check_size(grammar: Grammar) -> None:
    if len(grammar.text) > MOST_GRAMMAR:
        size = len(grammar.text)
        raise GrammarError(f"the {grammar.name} has {size} letters, accepted are {MOST_GRAMMAR} at most")


def prompt_of(prompt: str | list[int]) -> str | Prompt:
    """A prompt of /v1/completions for the library. Raises an OutpaceError for one without tokens."""
    if isinstance(prompt, str):
        return prompt
    if not prompt:
        raise OutpaceError("prompt has no tokens, accepted are 1 or more")
    return Prompt(prompt)
