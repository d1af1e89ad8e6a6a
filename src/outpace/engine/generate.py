"""One request: the prompt's own call, then steps to an end token, a stop string or the last token wanted."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from functools import partial
from time import perf_counter
from typing import Any

from outpace.core.contracts import Ask, Drafter, Rule, ScoredCall, Target, weakest
from outpace.core.stats import GenerationStats
from outpace.core.tree import TokenTree
from outpace.decode.step import judge, step
from outpace.engine.request import FinishReason, Generation, Request
from outpace.engine.text import TextStream


def generate(
    target: Target, drafter: Drafter, rule: Rule, request: Request, *, text: TextStream | None = None
) -> Generator[tuple[list[int], str], None, Generation]:
    """A generator of (new tokens, new text), one pair per step; its return value is the whole.

    Without `text` the tokens stay tokens. The request is checked here; nothing runs before the first `next`,
    and the row is given back however the generator ends. No scores are held while the generator waits, so
    several of them may take turns on one target.
    """
    request.check(target)
    return _run(target, drafter, rule, request, text)


def _run(
    target: Target, drafter: Drafter, rule: Rule, request: Request, text: TextStream | None
) -> Generator[tuple[list[int], str], None, Generation]:
    began, paused = perf_counter(), 0.0
    output = _Output(target, request, text)
    stats = GenerationStats(prompt_tokens=len(request.prompt))
    with ExitStack() as held:
        rows, scores = target.prefill([request.prompt])
        held.callback(target.free, rows)
        asks = [output.ask()]
        steps = judge(rule, ScoredCall(scores, [TokenTree.root(asks[0].root)], asks))
        stats.prefill_s = perf_counter() - began
        states: list[Any] = [drafter.start(request.prompt, steps[0].scores)]
        held.callback(lambda: drafter.stop(states[0]))
        states = drafter.observe(states, steps)
        stats.draft_s = perf_counter() - began - stats.prefill_s
        new, piece = output.add(steps[0].tokens)
        stats.completion_tokens = 1
        stats.time_to_first_token_s = stats.wall_s = perf_counter() - began
        while output.finish_reason is None:
            waiting = perf_counter()
            yield new, piece
            paused += perf_counter() - waiting
            steps, states, times = step(target, drafter, rule, rows, states, [output.ask()])
            new, piece = output.add(steps[0].tokens)
            stats.add(steps[0], len(new), times)
            stats.wall_s = perf_counter() - began - paused
    yield new, piece
    exactness = weakest(target.exactness, rule.exactness)
    return Generation(
        output.text, output.new_tokens, output.finish_reason, stats, len(request.prompt), exactness
    )


class _Output:
    """What a request has so far, and where it ends."""

    def __init__(self, target: Target, request: Request, text: TextStream | None) -> None:
        self.tokens = list(request.prompt)
        self.finish_reason: FinishReason | None = None
        self._request = request
        self._text = text
        self._pieces: list[str] = []
        self._eos_ids = target.eos_ids if request.eos_ids is None else request.eos_ids
        self._edits = None if request.edits is None else partial(request.edits, self.tokens)
        # The token after a full context can still be chosen, but no longer be scored.
        limit = min(request.max_tokens, target.context_length - len(request.prompt) + 1)
        self._end = len(request.prompt) + limit
        self._context_length = target.context_length

    @property
    def new_tokens(self) -> list[int]:
        return self.tokens[len(self._request.prompt) :]

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def ask(self) -> Ask:
        """What to propose now: no deeper than what is still wanted, no more than the context holds."""
        position = len(self.tokens) - 1
        return Ask(
            root=self.tokens[-1],
            position=position,
            sampling=self._request.sampling,
            budget=min(self._request.budget, self._context_length - position - 1),
            depth=self._end - position - 2,
            edits=self._edits,
        )

    def add(self, tokens: list[int]) -> tuple[list[int], str]:
        """Take a step's tokens up to the end; returns what was taken, and the text that became certain."""
        assert len(self.tokens) + len(tokens) <= self._end, "the ask's depth bounds what a step commits"
        new = shown = tokens
        for index, token in enumerate(new):
            if token in self._eos_ids:
                new, shown = new[: index + 1], new[:index]
                self.finish_reason = "stop"
                break
        piece = ""
        if self._text is not None:
            before = self._text.tokens_used
            piece = self._text.push(shown)
            if self._text.stopped:
                new = new[: self._text.tokens_used - before]
                self.finish_reason = "stop"
        self.tokens += new
        if self.finish_reason is None and len(self.tokens) == self._end:
            self.finish_reason = "length"
        if self.finish_reason is not None and self._text is not None:
            piece += self._text.finish()
        self._pieces.append(piece)
        return new, piece
