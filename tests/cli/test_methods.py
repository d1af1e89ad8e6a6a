"""`outpace methods`: what is listed, and what becomes of other packages' methods, broken ones too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outpace.cli.methods import CITATION
from outpace.drafters import DRAFTERS
from outpace.rules import RULES
from outpace.trees import TREES
from tests.cli.conftest import Outcome
from tests.plugins import install

Run = Callable[..., Outcome]

THEIRS = '''
"""Guess [nothing] at all.

Nobody 2020, https://example.org/paper.pdf, and arXiv:2001.00001.
"""
from outpace.core.contracts import Target
from outpace.core.traits import Traits
from outpace.drafters.none import NoDraft


class Layers(Target):
    ...


class Theirs(NoDraft):
    traits = Traits(draws=frozenset({"iid", "hub"}))

    def __init__(
        self, *, path: str, size: int | None = None, on: bool = True, w: str = "3,2", target: Layers, memo,
        context,
    ): ...
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "their_module.py": THEIRS,
        "their_broken_module.py": "import nowhere_to_be_found",
        "their_typed_module.py": "from __future__ import annotations\ndef typed(*, n: Missing = 3): ...",
    }
    drafters = {
        "theirs": "their_module:Theirs",
        "broken": "their_broken_module:Theirs",
        "gone": "their_module:Gone",
        "typed": "their_typed_module:typed",
    }
    install(tmp_path, monkeypatch, files, {"outpace.drafters": drafters})


def listed(run: Run, *args: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(run("methods", "--json", *args).out)
    return entries


def test_every_name_is_listed_once(run: Run) -> None:
    names = [(entry["kind"], entry["name"]) for entry in listed(run)]
    registries = {"drafter": DRAFTERS, "tree": TREES, "rule": RULES}
    assert names == [(kind, name) for kind, registry in registries.items() for name in registry.names()]
    lines = run("methods").out.splitlines()
    for _, name in names:
        assert any(line.split()[:1] == [name] for line in lines), name


def test_an_entry_in_json(run: Run) -> None:
    [entry] = listed(run, "ngram")
    assert entry["kind"] == "drafter" and entry["takes_tree"] is False and entry["needs"] == []
    assert entry["what"].startswith("Prompt lookup:") and entry["doc"].startswith(entry["what"])
    assert entry["paper"] == "github.com/apoorvumang/prompt-lookup-decoding"
    assert entry["options"]["max_n"] == {"type": "int", "default": 3}
    [entry] = listed(run, "match")
    assert (entry["exactness"], entry["needs_law"], entry["paper"]) == (
        "identical",
        False,
        "arXiv:1811.03115",
    )


def test_one_in_full(run: Run) -> None:
    out = run("methods", "chain").out
    assert out.startswith("tree chain\n") and "arXiv:2211.17192" in out
    assert "| length | int   | 4       |" in out and "| min_p  | float | 0.0     |" in out
    assert "prune   cut the end off" in out, "the docstring, with its own line ends"


def test_a_method_of_another_package(run: Run, plugin: None) -> None:
    [entry] = listed(run, "theirs")
    assert entry == {
        "kind": "drafter",
        "name": "theirs",
        "what": "Guess [nothing] at all.",
        "paper": "https://example.org/paper.pdf",
        "options": {
            "path": {"type": "str"},
            "size": {"type": "int | None", "default": None},
            "on": {"type": "bool", "default": True},
            "w": {"type": "str", "default": "3,2"},
        },
        "needs": ["path", "a table kept on disk", "other drafts", "a Layers target"],
        "takes_tree": False,
        "draws": ["hub", "iid"],
        "doc": entry["doc"],
    }
    line = next(line for line in run("methods").out.splitlines() if line.startswith("theirs "))
    assert "Guess [nothing] at all." in line and "path=..., size=none, on=true, w=[3,2]" in line


def test_a_broken_package_is_one_line(run: Run, plugin: None) -> None:
    outcome = run("methods")
    assert outcome.status == 0 and "ngram" in outcome.out and "theirs" in outcome.out
    errors = outcome.err.splitlines()
    assert len(errors) == 3 and all(line.startswith("error: the drafter '") for line in errors)
    for line, named in zip(
        errors, (("broken", "nowhere_to_be_found"), ("gone", "Gone"), ("typed", "Missing")), strict=True
    ):
        assert all(word in line for word in named)
    for command in (("methods", "broken"), ("generate", "x", "--draft", "broken")):
        outcome = run(*command)
        assert outcome.status == 2 and outcome.out == ""
        assert outcome.err.count("\n") == 1 and "nowhere_to_be_found" in outcome.err
    outcome = run("generate", "x", "--draft", "ngram", "--tree", "chain")
    assert "takes no tree" in outcome.err and "shaped" in outcome.err and "broken" not in outcome.err


def test_tables_fit_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    lines = run("methods").out.splitlines()
    assert max(map(len, lines)) <= 100 and not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize(
    ("text", "cited"),
    [
        ("see arXiv:2302.01318.", "arXiv:2302.01318"),
        ("(github.com/a/b), arXiv:2302.01318", "github.com/a/b"),
        ("<https://example.org/x.html>, 2023", "https://example.org/x.html"),
        ("Nobody 1980, doi:10.1000/182.", "doi:10.1000/182"),
        ("no paper at all", None),
    ],
)
def test_citations(text: str, cited: str | None) -> None:
    found = CITATION.search(text)
    assert (found and found[0].rstrip(".")) == cited
