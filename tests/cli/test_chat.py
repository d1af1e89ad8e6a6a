"""`outpace chat` with a pipe as its terminal: turns, commands, and conversations that grow too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO, TextIOWrapper
from types import SimpleNamespace
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


def test_in_a_pipe_other_commands_are_messages(run: Run, model: FakeModel, stdin: Pipe) -> None:
    stdin("/etc/hosts: what is it?\n/resets\n /quit \nnever said\n")
    assert run("chat").status == 0
    assert [prompt[-1] for prompt, _ in model.calls] == [user("/etc/hosts: what is it?"), user("/resets")]


def test_on_a_terminal_they_are_explained(
    run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = iter(["/dance"])

    def typed(prompt: str) -> str:
        for line in lines:
            return line
        raise EOFError

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", typed)
    outcome = run("chat")
    assert outcome.status == 0 and not model.calls
    assert outcome.err.count("/reset") == 2 and outcome.err.count("/quit") == 2


@pytest.mark.parametrize(
    ("piped", "messages"),
    [
        (b"Hello\r\nAnd then?\r\n", ["Hello", "And then?"]),
        (b"one\rtwo\nlast", ["one\rtwo", "last"]),
        ("é\r\n\r\n \n/quit\r\nx\n".encode(), ["é"]),
        (b"", []),
    ],
)
def test_lines_of_a_pipe(
    run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch, piped: bytes, messages: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(piped), encoding="latin-1"))
    assert run("chat").status == 0
    assert [prompt[-1]["content"] for prompt, _ in model.calls] == messages


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
    assert outcome.status == 2
    assert outcome.err.startswith("error: the prompt has 99 tokens") and "/reset" in outcome.err
    assert [prompt for prompt, _ in model.calls][-1] == [user("Hello"), ANSWER, user("Short")]


def test_interrupted_in_a_pipe(run: Run, model: FakeModel, stdin: Pipe) -> None:
    model.pieces = ["Half", KeyboardInterrupt()]
    stdin("Hello\nnever said\n")
    assert run("chat") == (130, "Half\n", "interrupted\n")


def test_what_is_no_text_gets_one_line(run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"Hello\ncaf\xe9\nnever\n"), encoding="latin-1"))
    assert run("chat") == (2, "The moon pulls.\n", "error: the message on standard input is not UTF-8 text\n")
