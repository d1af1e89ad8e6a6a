"""What the files beside the code say agrees: versions, dates, Pythons, targets of make, programs of hooks."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import outpace

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CITATION = ROOT / "CITATION.cff"
HOOKS = ROOT / ".pre-commit-config.yaml"
WORKFLOW = ROOT / ".github/workflows/test.yml"
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def make_targets() -> set[str]:
    return set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_one_version() -> None:
    version = PROJECT["version"]
    assert outpace.__version__ == version
    citation = read(CITATION)
    newest, date = RELEASE.findall((ROOT / "CHANGELOG.md").read_text())[0]
    assert (citation["version"], str(citation["date-released"])) == (version, date)
    assert newest == version, "the newest version of CHANGELOG.md is not that of pyproject.toml"


def test_the_citation_is_of_this_project() -> None:
    citation = read(CITATION)
    assert citation["cff-version"] == "1.2.0" and citation["message"]
    assert citation["title"].lower() == PROJECT["name"]
    assert [author["name"] for author in citation["authors"]] == ["The Outpace authors"]
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" and all(RELEASE.match(f"## {other}") for other in headings[1:])


def test_every_python_that_we_promise_is_tested() -> None:
    matrix = read(WORKFLOW)["jobs"]["test"]["strategy"]["matrix"]
    language = "Programming Language :: Python :: "
    promised = [name.removeprefix(language) for name in PROJECT["classifiers"] if name.startswith(language)]
    assert matrix["python"] == promised
    assert (
        PROJECT["requires-python"] == f">={promised[0]}" == f">={PYPROJECT['tool']['mypy']['python_version']}"
    )
    assert any(runner.endswith("-arm") for runner in matrix["runner"])
    assert not all(runner.endswith("-arm") for runner in matrix["runner"])


def test_jobs_run_targets_of_make() -> None:
    jobs = read(WORKFLOW)["jobs"]
    runs = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    called = {
        name: [run.split()[1] for run in some if run.startswith("make ")] for name, some in runs.items()
    }
    assert called == {"test": ["test"], "sanitize": ["sanitize"]}
    assert {target for some in called.values() for target in some} <= make_targets()


def test_hooks_are_the_programs_of_make_check() -> None:
    hooks = [hook for repository in read(HOOKS)["repos"] for hook in repository["hooks"]]
    assert all(repository["repo"] == "local" for repository in read(HOOKS)["repos"])
    assert all(hook["language"] == "system" for hook in hooks)
    checks = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    called = set(re.findall(r"\$\(BIN\)/([\w-]+)", checks))
    assert called == {Path(hook["entry"].split()[0]).name for hook in hooks}
    assert {hook["entry"].partition("/bin/")[0] for hook in hooks} == {".venv"}


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_forms_ask_for_something(form: Path) -> None:
    asked = read(form)
    assert asked["name"] and asked["description"]
    ids = [field["id"] for field in asked["body"] if field["type"] != "markdown"]
    assert ids and len(set(ids)) == len(ids)
    assert all(field["attributes"].get("label") or field["type"] == "markdown" for field in asked["body"])
    assert any(field.get("validations", {}).get("required") for field in asked["body"])


def test_there_are_forms() -> None:
    assert {form.stem for form in FORMS} == {"bug", "method", "speed"}
