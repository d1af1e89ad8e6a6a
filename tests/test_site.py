"""The site of docs/ is built, strictly, and strictness sees what is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns("work", ".venvs", "*.py", "__pycache__", "*.cpp", "*.hpp", "records")


def build(repository: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_in_it(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        way = page.relative_to(ROOT / "docs").with_suffix("")
        at = way.parent if way.name == "README" else way
        assert (site / at / "index.html").exists(), f"{page} has no page"
    assert not list(site.rglob("*.py"))


def test_links_out_of_docs_follow(site: Path) -> None:
    choosing = (site / "choosing/index.html").read_text()
    assert 'href="../repository/benchmarks/methods/#rules-at-temperature-1"' in choosing
    front = (site / "index.html").read_text()
    assert 'href="methods/"' in front and 'href="repository/CONTRIBUTING/"' in front
    assert "LICENSE" in front and 'href="LICENSE"' not in front, "what is no page becomes text"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    front = (site / "index.html").read_text()
    assert 'src="' in front and 'src="http' not in front and 'src="//' not in front
    assert 'rel="stylesheet" href="http' not in front


def test_what_is_wrong_ends_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for page in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"):
        shutil.copy(ROOT / page, copy)
    for folder in ("benchmarks", "experiments"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=LEFT_OUT)
    shutil.copytree(ROOT / "docs", copy / "docs")
    settings = (ROOT / "mkdocs.yml").read_text()
    (copy / "mkdocs.yml").write_text(settings.replace("choosing.md", "nowhere.md"))
    (copy / "docs/alone.md").write_text("# Alone\n\n[one](methods/none_such.md) and [two](cli.md#nothing)\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    for said in ("'nowhere.md' is included in the 'nav'", "'methods/none_such.md', but", "anchor '#nothing'"):
        assert said in done.stderr
    assert 'not included in the "nav" configuration:\n  - alone.md\n  - choosing.md\n' in done.stderr
