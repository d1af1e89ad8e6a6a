"""One request, or several side by side, as generators of what each step adds."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from outpace.core.contracts import Drafter, Rule, Target
from outpace.engine.engine import Engine, Job
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.pricing.pace import Pace

Piece = tuple[list[int], str]
"""A step's additions to one request: tokens, and the text that became certain."""


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
    return _single(generate_batch(target, drafter, rule, [request], texts=[text], pace=pace))


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
    pace: Pace | None = None,
) -> Generator[dict[int, Piece], None, list[Generation]]:
    """Requests side by side (see `engine.py`); yields {request number: its piece}, for those that got one.

    As `generate` otherwise. What one of them fails with ends all.
    """
    engine = Engine(target, drafter, rule, pace=pace)
    texts = [None] * len(requests) if texts is None else texts
    jobs = [engine.add(request, text=text) for request, text in zip(requests, texts, strict=True)]
    return _run(engine, jobs)


def _run(engine: Engine, jobs: Sequence[Job]) -> Generator[dict[int, Piece], None, list[Generation]]:
    numbers = {job: number for number, job in enumerate(jobs)}
    try:
        while engine.busy:
            pieces = {}
            for event in engine.step():
                if event.job.error is not None:
                    raise event.job.error
                pieces[numbers[event.job]] = event.tokens, event.text
            if pieces:
                yield pieces
    finally:
        engine.close()
    return [job.result for job in jobs if job.result is not None]
