"""Grammars of `outpace generate`: they reach the model, and bad ones are one line before it is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llguidance")
import outpace
from tests.cli.conftest import FakeModel, Outcome

Run = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("schema.json").write_text('{"type": "object", "properties": {"höhe": {"type": "integer"}}}')
    Path("rules.lark").write_text('start: "a" | "b"\n')
    Path("rules.gbnf").write_text('root ::= "a" | "b"\n')
    Path("wrong.gbnf").write_text("root ::= (\n")
    Path("list.json").write_text("[1]")
    Path("latin.lark").write_bytes(b"caf\xe9")


def test_grammars_reach_the_model(run: Run, model: FakeModel) -> None:
    schema = {"type": "object", "properties": {"höhe": {"type": "integer"}}}
    for options, expected in (
        (("--json-object",), outpace.Grammar.json()),
        (("--json-schema", "schema.json"), outpace.Grammar.json_schema(schema)),
        (("--regex", "a+é"), outpace.Grammar.regex("a+é")),
        (("--grammar", "rules.lark"), outpace.Grammar.lark('start: "a" | "b"\n')),
        (("--grammar", "rules.gbnf"), outpace.Grammar.gbnf('root ::= "a" | "b"\n')),
    ):
        assert run("generate", "x", *options).status == 0
        assert model.calls[-1][1]["grammar"] == expected
    assert run("generate", "x", "--regex", "a+", "--compare").status == 0
    assert all(request["grammar"].text == "a+" for _, request in model.calls[-2:])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--regex", "a", "--json-object"), "--json-object and --regex are given, accepted is one of"),
        (("--json-schema", "nowhere.json"), "cannot read nowhere.json: No such file"),
        (("--json-schema", "list.json"), "list.json does not hold a JSON object"),
        (("--json-schema", "rules.lark"), "rules.lark is not valid JSON"),
        (
            ("--grammar", "schema.json"),
            "--grammar is 'schema.json', accepted are files named .lark and .gbnf",
        ),
        (("--grammar", "nowhere.gbnf"), "cannot read a grammar in nowhere.gbnf: No such file"),
        (("--grammar", "latin.lark"), "cannot read a grammar in latin.lark: it is not UTF-8 text"),
        (("--grammar", "wrong.gbnf"), "the GBNF grammar 'root ::= (\\n' cannot be read: Expected"),
    ],
)
def test_bad_grammars_are_one_line(run: Run, model: FakeModel, options: tuple[str, ...], named: str) -> None:
    outcome = run("generate", "x", *options)
    assert outcome.status == 2 and named in outcome.err and outcome.err.count("\n") == 1
    assert not model.loaded_with


def test_a_missing_package_is_one_line(run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    outcome = run("generate", "x", "--json-object")
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and not model.loaded_with
    assert "pip install 'outpace[grammar]'" in outcome.err


def test_no_grammar_imports_nothing(run: Run, model: FakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    assert run("generate", "x").status == 0 and "grammar" not in model.calls[0][1]
