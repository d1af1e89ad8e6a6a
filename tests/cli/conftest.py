"""A model that answers from a list and counts as the real one does, and a way to run one command."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from outpace.cli.main import main
from outpace.core.errors import PromptTooLong
from outpace.core.stats import GenerationStats


@dataclass
class FakeGeneration:
    text: str
    token_ids: list[int]
    stats: GenerationStats
    prompt_tokens: int
    finish_reason: str = "stop"
    exactness: str = "identical"


class FakeStream:
    """Pieces, then `.result`; an exception among the pieces is raised in its place."""

    def __init__(self, pieces: list[Any], result: FakeGeneration) -> None:
        self._pieces = iter(pieces)
        self.result = result

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = next(self._pieces)
        if isinstance(piece, BaseException):
            raise piece
        return piece


@dataclass
class FakeModel:
    """Answers `pieces` to everything; drafts make it faster, and `wrong` makes drafted tokens differ."""

    pieces: list[Any] = field(default_factory=lambda: ["The ", "moon ", "pulls."])
    wrong: bool = False
    calls: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    loaded_with: dict[str, Any] = field(default_factory=dict)

    def stream(self, prompt: Any, *, draft: str = "ngram", **request: Any) -> FakeStream:
        prompt = [dict(message) for message in prompt] if isinstance(prompt, list) else prompt
        self.calls.append((prompt, {"draft": draft, **request}))
        words = [piece for piece in self.pieces if isinstance(piece, str)]
        tokens = [len(word) for word in words]
        if self.wrong and draft != "none":
            tokens[-1] += 1
        calls = len(tokens) - 1 if draft == "none" else 1
        stats = GenerationStats(
            prompt_tokens=4,
            completion_tokens=len(tokens),
            target_calls=calls,
            wall_s=0.5 + 0.1 * calls,
            time_to_first_token_s=0.5,
        )
        return FakeStream(list(self.pieces), FakeGeneration("".join(words), tokens, stats, 4))

    def generate(self, prompt: Any, **request: Any) -> FakeGeneration:
        if isinstance(prompt, str) and "endless" in prompt:
            raise PromptTooLong("the prompt has 9 tokens, the context holds 8")
        stream = self.stream(prompt, **request)
        for _ in stream:
            pass
        return stream.result


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    """What outpace.load returns during the test."""
    fake = FakeModel()

    def load(source: str, **options: Any) -> FakeModel:
        fake.loaded_with = {"source": source, **options}
        return fake

    monkeypatch.setattr("outpace.load", load)
    return fake


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `outpace ARGS` in this process."""

    def run_main(*args: str) -> Outcome:
        status = main(list(args))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run_main


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make standard input a pipe that holds this text."""
    return lambda text: monkeypatch.setattr(sys, "stdin", io.StringIO(text))
