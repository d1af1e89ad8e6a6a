"""One request, or several side by side, as generators of what each step adds."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, TypeVar

from outpace.core.contracts import Drafter, Rule, Target
from outpace.engine.engine import Engine, Event, Job
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.pricing.pace import Pace

Piece = tuple[list[int], str]
"""A step's additions to one request: tokens, and the text that became certain."""
R = TypeVar("R")


def generate(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    request: Request,
    *,
    text: TextStream | None = None,
    pace: Pace | None = None,
) -> Generator[Piece, None, Generation]:
    """A generator of (new tokens, new text), one pair per step; its return value is the whole.

    Without `text` the tokens stay tokens. `pace` cuts drafts to the depth that pays; None takes them as they
    come. The request is checked here; nothing runs before the first `next`, and the row is given back however
    the generator ends. No scores are held while the generator waits, so several of them take turns on one
    target, step by step, in one thread or in many.
    """
    steps = events(target, drafter, rule, [request], texts=[text], pace=pace)
    return _pieces(steps)


def events(
    target: Target,
    drafter: Drafter,
    rule: Rule,
    requests: Sequence[Request],
    *,
    texts: Sequence[TextStream | None] | None = None,
    pace: Pace | None = None,
) -> Generator[dict[int, Event], None, list[Generation]]:
    """Requests side by side (see `engine.py`); yields {request number: its event}, for those that got one.

    As `generate` otherwise. What one of them fails with ends all.
    """
    engine = Engine(target, drafter, rule, pace=pace)
    texts = [None] * len(requests) if texts is None else texts
    jobs = [engine.add(request, text=text) for request, text in zip(requests, texts, strict=True)]
    return _run(engine, jobs)


def result_of(steps: Generator[Any, None, R]) -> R:
    """What a generator returns, run to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: R = end.value
            return result


def _pieces(steps: Generator[dict[int, Event], None, list[Generation]]) -> Generator[Piece, None, Generation]:
    with closing(steps):
        while True:
            try:
                found = next(steps)
            except StopIteration as end:
                results: list[Generation] = end.value
                return results[0]
            yield found[0].tokens, found[0].text


def _run(engine: Engine, jobs: Sequence[Job]) -> Generator[dict[int, Event], None, list[Generation]]:
    numbers = {job: number for number, job in enumerate(jobs)}
    try:
        while engine.busy:
            found = {numbers[event.job]: event for event in engine.step()}
            for event in found.values():
                if event.job.error is not None:
                    raise event.job.error
            if found:
                yield found
    finally:
        engine.close()
    return [job.result for job in jobs if job.result is not None]
