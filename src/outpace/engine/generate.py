"""Requests: the prompts' own call, then steps to an end token, a stop string or the last token wanted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any

from outpace.core.call import Prompt, read
from outpace.core.contracts import Drafter, Rule, Target
from outpace.core.steps import Ask, weakest
from outpace.core.turns import turns_of
from outpace.decode.pairing import check_pairing
from outpace.decode.step import step
from outpace.engine.output import Output
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream

FIRST_NODES = 16  # of a row's drafts, for which the call that ends its prompt has a place

Piece = tuple[list[int], str]
"""What a step added to one request: tokens, and the text that became certain."""


def generate(
    target: Target, drafter: Drafter, rule: Rule, request: Request, *, text: TextStream | None = None
) -> Generator[Piece, None, Generation]:
    """A generator of (new tokens, new text), one pair per step; its return value is the whole.

    Without `text` the tokens stay tokens. The request is checked here; nothing runs before the first `next`,
    and the row is given back however the generator ends. No scores are held while the generator waits, so
    several of them take turns on one target, step by step, in one thread or in many.
    """
    return _single(generate_batch(target, drafter, rule, [request], texts=[text]))


def _single(
    batch: Generator[dict[int, Piece], None, list[Generation]],
) -> Generator[Piece, None, Generation]:
    try:
        while True:
            try:
                pieces = next(batch)
            except StopIteration as end:
                return end.value[0]
            yield pieces[0]
    finally:
        batch.close()


def generate_batch(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    requests: Sequence[Request],
    *,
    texts: Sequence[TextStream | None] | None = None,
) -> Generator[dict[int, Piece], None, list[Generation]]:
    """Requests side by side, every step one call for all that still run; yields {request number: its piece}.

    As `generate` otherwise. The ends of the prompts share the first step, and a request that has ended leaves
    its row. Drafts share the nodes that a call may have.
    """
    check_pairing(target, drafter, rule)
    for request in requests:
        request.check(target)
    texts = [None] * len(requests) if texts is None else texts
    return _run(target, drafter, rule, [Output(target, *pair) for pair in zip(requests, texts, strict=True)])


def _run(
    target: Target, drafter: Drafter, rule: Rule, outputs: Sequence[Output]
) -> Generator[dict[int, Piece], None, list[Generation]]:
    began, paused = perf_counter(), 0.0
    ours, drafts = turns_of(target), turns_of(drafter)  # always in this order
    top = drafter.traits.reads_top

    def ask(
        outputs: Sequence[Output], rows: Sequence[int], unread: Sequence[Sequence[int]] | None = None
    ) -> list[Ask]:
        unread = [()] * len(rows) if unread is None else unread
        room = max(0, (target.traits.max_nodes - sum(map(len, unread))) // len(outputs) - 1)
        return [
            output.ask(row=row, draw=rule.draw, law=rule.needs_law, top=top, room=room, unread=before)
            for output, row, before in zip(outputs, rows, unread, strict=True)
        ]

    def give_back(rows: list[int], states: list[Any]) -> Callable[[], None]:
        return partial(_give_back, target, drafter, rows, states)

    rows: list[int] = []
    states: list[Any] = []
    try:
        prompts = [Prompt.of(output.request.prompt) for output in outputs]
        with ours, drafts:
            for prompt in prompts:
                rows.append(target.open(prompt.source))
                states.append(drafter.start(prompt))
            reading = perf_counter()
            left = read(target, rows, prompts, spare=FIRST_NODES * len(rows))
            read_s = perf_counter() - reading
            asks = ask(outputs, rows, [pending[:-1] for pending in left])
            steps, states[:], times = step(target, drafter, rule, states, asks)
        times = replace(times, score_s=times.score_s + read_s)
        now = perf_counter() - began
        pieces = {
            number: output.start(one, times, wall_s=now)
            for number, (output, one) in enumerate(zip(outputs, steps, strict=True))
        }
        live = list(range(len(outputs)))
        while True:
            for place in reversed(range(len(live))):
                if outputs[live[place]].finish_reason is not None:
                    ours.soon(give_back([rows.pop(place)], [states.pop(place)]))
                    del live[place]
            if not live:
                break
            waiting = perf_counter()
            yield pieces
            paused += perf_counter() - waiting
            asks = ask([outputs[number] for number in live], rows)
            with ours, drafts:
                steps, states, times = step(target, drafter, rule, states, asks)
            now = perf_counter() - began - paused
            pieces = {
                number: outputs[number].take(one, times, wall_s=now)
                for number, one in zip(live, steps, strict=True)
            }
    finally:
        # The garbage collector may be what ends this, in the midst of another request's step.
        ours.soon(give_back(rows, states))
    yield pieces
    exactness = weakest(target.exactness, rule.exactness)
    return [output.generation(exactness, target.traits.numerics) for output in outputs]


def _give_back(target: Target, drafter: Drafter, rows: list[int], states: list[Any]) -> None:
    with turns_of(drafter), ExitStack() as held:
        held.callback(target.free, rows)
        for state in states:
            held.callback(drafter.stop, state)
