"""What the files beside the code say agrees: versions and dates."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import outpace

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
CITATION = ROOT / "CITATION.cff"
RELEASE = re.compile(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d{2}-\d{2})$", re.MULTILINE)


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


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
