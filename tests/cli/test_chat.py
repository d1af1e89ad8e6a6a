"""`outpace chat` with a pipe as its terminal: turns, commands, and conversations that grow too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from outpace.core.errors import PromptTooLong
from tests.cli.conftest import FakeModel, FakeStream, Outcome

Run = Callable[..., Outcome]
Pipe = Callable[[str], None]
ANSWER = {"role": "assistant", "content": "The moon pulls."}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def test_the_conversation_grows(run: Run, model: FakeModel, stdin: Pipe) -> None:
    stdin("Hello\n\nAnd then?\n")
    outcome = run("chat", "--system", "Be brief.", "--max-tokens", "9")
    assert outcome == (0, "The moon pulls.\nThe moon pulls.\n", "")
    opening = {"role": "system", "content": "Be brief."}
    assert [prompt for prompt, _ in model.calls] == [
        [opening, user("Hello")],
        [opening, user("Hello"), ANSWER, user("And then?")],
    ]
    assert model.calls[0][1]["max_tokens"] == 9


def test_reset_and_quit(run: Run, model: FakeModel, stdin: Pipe) -> None:
    stdin("Hello\n/reset\nAgain\n/quit\nnever said\n")
    assert run("chat").status == 0
    assert [prompt for prompt, _ in model.calls] == [[user("Hello")], [user("Again")]]


def test_unknown_command_is_explained(run: Run, model: FakeModel, stdin: Pipe) -> None:
    stdin("/dance\n")
    outcome = run("chat")
    assert outcome.status == 0 and not model.calls
    assert "/reset" in outcome.err and "/quit" in outcome.err


def test_a_turn_that_does_not_fit_is_taken_back(
    run: Run, model: FakeModel, stdin: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = model.stream

    def stream(messages: Any, **request: Any) -> Iterator[str] | FakeStream:
        if len(messages[-1]["content"]) > 9:
            raise PromptTooLong("the prompt has 99 tokens, the context holds 64")
        return answer(messages, **request)

    monkeypatch.setattr(model, "stream", stream)
    stdin("Hello\nSomething very long\nShort\n")
    outcome = run("chat")
    assert outcome.status == 0
    assert outcome.err.startswith("error: the prompt has 99 tokens") and "/reset" in outcome.err
    assert [prompt for prompt, _ in model.calls][-1] == [user("Hello"), ANSWER, user("Short")]


def test_interrupted_in_a_pipe(run: Run, model: FakeModel, stdin: Pipe) -> None:
    model.pieces = ["Half", KeyboardInterrupt()]
    stdin("Hello\nnever said\n")
    assert run("chat") == (130, "Half\n", "interrupted\n")


def test_what_is_no_text_gets_one_line(
    run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch, stdin: Pipe
) -> None:
    stdin("")
    monkeypatch.setattr("builtins.input", lambda prompt: b"caf\xe9".decode())
    assert run("chat") == (2, "", "error: the message on standard input is not UTF-8 text\n")
