"""A model that answers from a list and counts as the real one does, and a way to run one command.

The tests of the command line know two rules that promise less than `match`, "fair" and "lucky", and a drafter
"shaped" that takes a tree.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from outpace.cli.main import main
from outpace.core.stats import GenerationStats
from outpace.core.steps import Exactness
from outpace.core.traits import Numerics, Traits
from outpace.drafters import DRAFTERS
from outpace.drafters.none import NoDraft
from outpace.engine.logprobs import TokenLogprob
from outpace.rules import RULES
from outpace.rules.match import Match


class Fair(Match):
    """Promises the law; needs that of the draft if it is told so."""

    exactness: Exactness = "distribution"

    def __init__(self, *, strict: bool = False) -> None:
        self.needs_law = strict


class Lucky(Match):
    exactness: Exactness = "lossy"


class Shaped(NoDraft):
    """Takes a tree, and more from the model than its options."""

    def __init__(self, *, target: object, tree: object = None, model: str) -> None:
        """Nothing is kept."""


@dataclass
class FakeGeneration:
    text: str
    token_ids: list[int]
    stats: GenerationStats
    prompt_tokens: int
    finish_reason: str = "stop"
    exactness: Exactness = "identical"
    numerics: Numerics = "bitwise"
    logprobs: list[Any] | None = None


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


class FakeDrafter(str):
    """A drafter that is its name."""

    traits = Traits()


@dataclass
class FakeModel:
    """Answers `pieces` to everything; drafts make it faster, and `wrong` makes drafted tokens differ.

    Where it makes drafters, these are texts.
    """

    own_draft = "ngram"

    target = SimpleNamespace(traits=Traits(), context_length=8)

    pieces: list[Any] = field(default_factory=lambda: ["The ", "moon ", "pulls."])
    wrong: bool = False
    calls: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    loaded_with: dict[str, Any] = field(default_factory=dict)
    made: list[tuple[str, str | None]] = field(default_factory=list)
    together: list[int] = field(default_factory=list)

    def new_drafter(self, draft: str, *, tree: str | None = None) -> str:
        self.made.append((draft, tree))
        return FakeDrafter(draft)

    def prepare(self, draft: str, *, tree: str | None, rule: str) -> None:
        self.made.append((draft, tree))

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
            num_drafted=0 if draft == "none" else 3 * calls,
            wall_s=0.5 + 0.1 * calls,
            prompt_s=0.5,
            draft_s=0.0 if draft == "none" else 0.02,
            score_s=0.08 * calls,
            time_to_first_token_s=0.5,
        )
        promise = RULES.create(request.get("rule", "match")).exactness
        result = FakeGeneration("".join(words), tokens, stats, 4, "stop", promise)
        if (count := request.get("logprobs")) is not None:
            result.logprobs = [TokenLogprob(token, -0.5, [(token, -0.5)][:count]) for token in tokens]
        return FakeStream(list(self.pieces), result)

    def prompt_ids(self, prompt: str) -> list[int]:
        return [0] * (9 if "endless" in prompt else 4)

    def generate(self, prompt: Any, **request: Any) -> FakeGeneration | list[FakeGeneration]:
        if isinstance(prompt, list) and prompt and isinstance(prompt[0], str):
            self.together.append(len(prompt))
            return [self.generate(one, **request) for one in prompt]  # type: ignore[misc]
        stream = self.stream(prompt, **request)
        for _ in stream:
            pass
        return stream.result


@pytest.fixture(autouse=True)
def more_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The methods of this file, by their names."""
    monkeypatch.setitem(RULES._table, "fair", f"{__name__}:Fair")
    monkeypatch.setitem(RULES._table, "lucky", f"{__name__}:Lucky")
    monkeypatch.setitem(DRAFTERS._table, "shaped", f"{__name__}:Shaped")


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
