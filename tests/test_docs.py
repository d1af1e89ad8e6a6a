"""The documentation is executed: snippets compile and run, commands parse, `--help` texts are those of today.

Every drafter, tree and rule has a page of a fixed scheme. Files that a page shows are installed as a package
before its snippets run. `python -m tests.test_docs` writes the help texts and the index of the pages anew.
"""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import typer.main

from outpace.cli.app import app
from outpace.cli.methods import CITATION, describe
from outpace.core.errors import OutpaceError
from outpace.core.registry import Registry
from outpace.drafters import DRAFTERS
from outpace.rules import RULES
from outpace.trees import TREES
from tests.plugins import install

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
METHODS = ROOT / "docs" / "methods"
INDEX = METHODS / "README.md"
GROUPS = {"Drafters": DRAFTERS, "Trees": TREES, "Rules": RULES}
HELP = re.compile(r"(?<=<!-- help:)(?P<verbs>[a-z0-9_ ]*)-->\n(?P<text>.*?)(?=<!-- /help -->)", re.DOTALL)
FENCE = re.compile(
    r"(?P<mark><!-- runnable -->\n)?^```(?P<language>\w*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)


FILE = re.compile(r"^<!-- file: (?P<name>[\w.]+) -->\n```\w+\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE)
INDEX_LISTS = re.compile(r"(?<=<!-- index -->\n).*(?=<!-- /index -->)", re.DOTALL)


def built_in(registry: Registry) -> list[str]:
    """The names of this package: what else is installed on the machine has its documentation elsewhere."""
    return [name for name in registry.names() if name in registry._table]


NAMED = [(registry, name) for registry in GROUPS.values() for name in built_in(registry)]


def blocks(page: Path, language: str) -> list[re.Match[str]]:
    return [block for block in FENCE.finditer(page.read_text()) if block["language"] == language]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def outpace_command() -> Any:
    """Made once: every line of a page is parsed by it."""
    return typer.main.get_command(app)


def help_text(verbs: list[str]) -> str:
    """What `outpace VERBS --help` prints on a terminal of 80 columns."""
    command = outpace_command()
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
    command = outpace_command()
    for name, group in command.commands.items():
        missing = {name, *(f"{name} {verb}" for verb in getattr(group, "commands", ()))} - shown
        assert not missing, "docs/cli.md needs their markers, <!-- help: ... --> and <!-- /help -->"


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
        command = outpace_command()
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
    install_files(page, tmp_path, monkeypatch)
    write_gguf(tmp_path / "tiny.gguf", "llama")
    load, model = outpace.load, outpace.load(tmp_path / "tiny.gguf")

    def tiny(source: Any, **options: Any) -> Any:
        """In place of a model that would be fetched; targets of the page are its own."""
        return model if isinstance(source, str) and ":" not in source else load(source, **options)

    monkeypatch.setattr(outpace, "load", tiny)
    names: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if block["mark"]:
            exec(compile(block["body"], name_of(page), "exec"), names)
    assert names and capsys.readouterr().out.strip()


def install_files(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the files that a page shows, with the entry points of its pyproject.toml."""
    files = {match["name"]: match["body"] for match in FILE.finditer(page.read_text())}
    if files:
        project = tomllib.loads(files.pop("pyproject.toml"))["project"]
        install(folder, monkeypatch, files, project["entry-points"])


def test_a_drafter_is_thirty_lines_and_in_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = ROOT / "docs" / "extending.md"
    with pytest.raises(OutpaceError, match="unknown drafter 'successors'"):
        DRAFTERS.parse("successors")
    install_files(page, tmp_path, monkeypatch)
    assert DRAFTERS.parse("successors:length=6") == ("successors", {"length": 6})
    assert not {"successors", "capped", "fork"} & {name for _, name in NAMED}
    drafter = next(match["body"] for match in FILE.finditer(page.read_text()))
    assert sum(bool(line.strip()) for line in drafter.splitlines()) <= 30


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def sections(page: str) -> dict[str, str]:
    """Heading of the second level -> what stands below it; "" for what stands before the first."""
    top, *rest = re.split(r"^## ", page, flags=re.MULTILINE)
    return {"": top} | {part.partition("\n")[0]: part.partition("\n")[2] for part in rest}


def scheme_errors(page: str, name: str, options: set[str]) -> list[str]:
    """What a method's page lacks."""
    found = sections(page)
    errors = [] if found[""].startswith(f"# {name}: ") else [f"the title is not '# {name}: what it is'"]
    if not CITATION.search(found[""]):
        errors.append("no arXiv number or URL below the title")
    if not re.search(r"^Code: ", found[""], re.MULTILINE):
        errors.append("no line 'Code: ...' below the title")
    wanted = ["Idea", "Example", "From equation to line", *(["Options"] if options else []), "Deviations"]
    errors += [f"no section '## {heading}'" for heading in wanted if not found.get(heading, "").strip()]
    listed = re.findall(r"^\| `(\w+)` \|", found.get("Options", ""), re.MULTILINE)
    if sorted(listed) != sorted(options):
        errors.append(f"the options table has {sorted(listed)}, the constructor {sorted(options)}")
    if not any(block["mark"] and block["language"] == "python" for block in FENCE.finditer(page)):
        errors.append("no python block that is marked <!-- runnable -->")
    return errors


@pytest.mark.parametrize(("registry", "name"), NAMED, ids=lambda one: getattr(one, "kind", one))
def test_every_method_has_a_page(registry: Registry, name: str) -> None:
    page = METHODS / f"{name}.md"
    assert page.exists(), f"docs/methods/{name}.md is missing"
    assert scheme_errors(page.read_text(), name, set(registry.options(name))) == []
    assert describe(registry, name)["paper"], "the docstring of its file cites nothing"


def test_the_scheme_is_looked_for() -> None:
    page = (METHODS / "ngram.md").read_text()
    options = set(DRAFTERS.options("ngram"))
    assert scheme_errors(page, "ngram", options) == []
    spoilt = {
        ("# ngram: ", "# Ngram, "): "title",
        ("https://github.com", "github"): "URL",
        ("Code: ", "Kode: "): "Code",
        ("## From equation to line", "### From equation to line"): "equation",
        ("| `min_n` |", "| `min` |"): "options",
        ("<!-- runnable -->", ""): "runnable",
    }
    for (old, new), said in spoilt.items():
        [error] = scheme_errors(page.replace(old, new), "ngram", options)
        assert said in error
    assert len(scheme_errors(page, "ngram", options | {"more"})) == 1


def index_lists() -> str:
    """The lists of the index: the pages of each registry, each with its title."""
    lines = []
    for heading, registry in GROUPS.items():
        lines += [f"## {heading}", ""]
        for name in built_in(registry):
            page = METHODS / f"{name}.md"
            if page.exists():
                title = page.read_text().partition("\n")[0].removeprefix(f"# {name}: ")
                lines.append(f"- [{name}]({name}.md): {title}")
        lines.append("")
    return "\n".join(lines)


def test_the_index_lists_all_pages() -> None:
    assert INDEX_LISTS.findall(INDEX.read_text()) == [index_lists()], "run: make docs"
    linked = set(re.findall(r"\]\((\w+\.md)\)", INDEX.read_text()))
    assert linked == {page.name for page in METHODS.glob("*.md")} - {INDEX.name}, "pages of no method"


def test_names_are_not_used_twice() -> None:
    names = [name for _, name in NAMED]
    assert len(names) == len(set(names)), "a page has one name"


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
    INDEX.write_text(INDEX_LISTS.sub(lambda _: index_lists(), INDEX.read_text()))
