"""Engines measured in turns: the one that waits is idle, and a machine that slows down slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

CALLS_PER_TURN = 5  # the first of them finds the caches full of another engine's data and does not count
PAUSE_S = 0.05  # between turns: worker threads of the engine that has just run may still be spinning


class Engine(Protocol):
    """One of those compared; `methods` has "plain" first."""

    name: str
    version: str

    @property
    def methods(self) -> Sequence[str]: ...

    def decode(self, text: str, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        """Greedily; `text` and `tokens` are the same prompt. See `engines/serve.py` for the answer."""

    def prompt(self, tokens: Sequence[int]) -> float:
        """Seconds from the ids to the choice of the next token."""

    def call(self, cached: Sequence[int], block: Sequence[int], calls: int) -> list[float] | None:
        """Seconds of each of `calls` calls that score a block behind cached tokens; None: it can not."""


@dataclass(frozen=True)
class Task:
    """A prompt, as text and as what the model reads for it."""

    prompt_id: str
    text: str
    tokens: Sequence[int]


@dataclass(frozen=True)
class Plan:
    """What is measured in every round. No sizes, or no prompt tokens: that part is left out."""

    tasks: Sequence[Task]
    max_tokens: int
    rounds: int
    sizes: Sequence[int] = ()
    context: int = 64
    prompt_tokens: int = 0


@dataclass
class Measured:
    """Seconds, by engine; the innermost lists have one entry a round (`calls`: CALLS_PER_TURN - 1)."""

    answers: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    calls: dict[str, dict[int, list[float]]] = field(default_factory=dict)
    prompts: dict[str, list[float]] = field(default_factory=dict)


def measure(
    engines: Sequence[Engine],
    methods: Mapping[str, Sequence[str]],
    plan: Plan,
    on_turn: Callable[[str], None] = lambda what: None,
) -> Measured:
    """All rounds. `methods` are those of each engine by name, "plain" first.

    Every answer has as many tokens as the first engine's plain one, which may come to an end by itself.
    """
    for engine in engines:  # weights into memory, threads awake
        for method in methods[engine.name]:
            engine.decode(plan.tasks[0].text, plan.tasks[0].tokens, 2, method)
            time.sleep(PAUSE_S)
    measured = Measured()
    for turn in range(plan.rounds):
        label = f"round {turn + 1}/{plan.rounds}"
        for size in plan.sizes:
            on_turn(f"{label}, calls of {size}")
            _calls(measured, engines, plan.context, size)
        if plan.prompt_tokens:
            on_turn(f"{label}, a prompt of {plan.prompt_tokens}")
            # A new text each time: nothing that an engine may remember helps it.
            tokens = some_tokens(plan.prompt_tokens, turn)
            for engine in engines:
                measured.prompts.setdefault(engine.name, []).append(engine.prompt(tokens))
                time.sleep(PAUSE_S)
        for count, task in enumerate(plan.tasks, start=1):
            on_turn(f"{label}, prompt {count}/{len(plan.tasks)}")
            _answers(measured, engines, methods, task, plan.max_tokens)
    return measured


def some_tokens(count: int, turn: int = 0) -> list[int]:
    """Ids that every vocabulary has: the time of a call does not depend on which tokens it scores."""
    return [(position * 37 + turn * 101) % 240 + 10 for position in range(count)]


def _calls(measured: Measured, engines: Sequence[Engine], context: int, size: int) -> None:
    tokens = some_tokens(context + size)
    for engine in engines:
        if (seconds := engine.call(tokens[:context], tokens[context:], CALLS_PER_TURN)) is not None:
            measured.calls.setdefault(engine.name, {}).setdefault(size, []).extend(seconds[1:])
        time.sleep(PAUSE_S)


def _answers(
    measured: Measured,
    engines: Sequence[Engine],
    methods: Mapping[str, Sequence[str]],
    task: Task,
    max_tokens: int,
) -> None:
    length: int | None = None
    for engine in engines:
        for method in methods[engine.name]:
            answer = engine.decode(task.text, task.tokens, length or max_tokens, method)
            length = length or len(answer["token_ids"])
            by_prompt = measured.answers.setdefault((engine.name, method), {})
            by_prompt.setdefault(task.prompt_id, []).append(answer)
            time.sleep(PAUSE_S)
