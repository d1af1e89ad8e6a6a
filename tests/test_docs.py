"""The documentation is executed: snippets compile and run, commands parse, `--help` texts are those of today.

`python -m tests.test_docs` writes the help texts anew.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer.main

from outpace.cli.main import app
from outpace.drafters import DRAFTERS

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
HELP = re.compile(r"(?<=<!-- help:)(?P<verbs>[a-z ]*)-->\n(?P<text>.*?)(?=<!-- /help -->)", re.DOTALL)
FENCE = re.compile(
    r"(?P<mark><!-- runnable -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)


def blocks(page: Path, language: str) -> list[re.Match[str]]:
    return [block for block in FENCE.finditer(page.read_text()) if block["language"] == language]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def help_text(verbs: list[str]) -> str:
    """What `outpace VERBS --help` prints on a terminal of 80 columns."""
    command: Any = typer.main.get_command(app)
    with mock.patch.dict(os.environ, {"COLUMNS": "80"}):
        context = command.make_context("outpace", [], resilient_parsing=True)
        for verb in verbs:
            command = command.get_command(context, verb)
            context = command.make_context(verb, [], parent=context, resilient_parsing=True)
        return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def with_help(text: str) -> str:
    return HELP.sub(lambda m: f"{m['verbs']}-->\n```\n{help_text(m['verbs'].split())}\n```\n", text)


@pytest.mark.parametrize("page", [page for page in PAGES if HELP.search(page.read_text())], ids=name_of)
def test_help_texts_are_not_stale(page: Path) -> None:
    assert page.read_text() == with_help(page.read_text()), "run: make docs"


def test_every_command_has_its_help_in_the_docs() -> None:
    shown = {match["verbs"].strip() for match in HELP.finditer((ROOT / "docs" / "cli.md").read_text())}
    command: Any = typer.main.get_command(app)
    assert set(command.commands) <= shown
    assert {f"models {verb}" for verb in command.commands["models"].commands} <= shown


def shell_lines() -> list[tuple[str, list[str]]]:
    """Every line of a shell block as (page, words)."""
    return [
        (name_of(page), shlex.split(line, comments=True))
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block["body"].splitlines()
    ]


def test_commands_in_the_docs_parse() -> None:
    checked = 0
    for page, words in shell_lines():
        if "outpace" not in words:
            continue
        command: Any = typer.main.get_command(app)
        words = words[words.index("outpace") + 1 :]
        context = command.make_context("outpace", [], resilient_parsing=True)
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, (page, words)
            command, words = command.commands[words[0]], words[1:]
        command.make_context(
            "outpace", list(words), parent=context
        )  # raises for an option that does not exist
        checked += 1
    assert checked >= 4


def test_make_targets_in_the_docs_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {words[1] for _, words in shell_lines() if words[:1] == ["make"]}
    assert named and named <= set(targets)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_snippets_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block["body"], name_of(page), "exec")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if any(b["mark"] for b in blocks(p, "python"))], ids=name_of
)
def test_marked_snippets_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import outpace
    from tests.fake_models import write_gguf

    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", "llama")
    model = outpace.load(tmp_path / "tiny.gguf")
    monkeypatch.setattr(outpace, "load", lambda source, **options: model)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if block["mark"]:
            exec(compile(block["body"], name_of(page), "exec"), names)
    assert names and capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("name", [name for name in DRAFTERS.names() if DRAFTERS.options(name)])
def test_every_drafter_has_a_page_with_its_options(name: str) -> None:
    page = (ROOT / "docs" / "methods" / f"{name}.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(DRAFTERS.options(name))


def test_files_named_in_the_docs_exist() -> None:
    named = {
        path
        for page in PAGES
        for path in re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|cpp|hpp|md))`", page.read_text())
    }
    missing = {
        path for path in named if not any((base / path).exists() for base in (ROOT, ROOT / "src/outpace"))
    }
    assert len(named) > 20 and not missing


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_help(page.read_text()))
