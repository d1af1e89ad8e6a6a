"""`outpace models`, with a cache folder of the test's own and nothing fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from outpace.cli.options import DEFAULT_MODEL
from outpace.formats import catalog
from outpace.formats.open import packed_path
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def installed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that passes for the default model: right name and size, zeros inside."""
    path = cache / "models" / f"{catalog.DEFAULT}.gguf"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(catalog.CATALOG[catalog.DEFAULT].num_bytes)
    return path


def test_the_default_is_a_name_of_the_catalog() -> None:
    assert catalog.DEFAULT == DEFAULT_MODEL


def test_list_says_what_is_here(run: Run, cache: Path) -> None:
    outcome = run("models", "list")
    assert outcome.status == 0
    assert f"| {catalog.DEFAULT} |" in outcome.out and "no |" in outcome.out
    assert f"0 packed models, 0 MB, in {cache}" in outcome.out


def test_list_sees_an_installed_model(run: Run, installed: Path) -> None:
    assert "yes |" in run("models", "list").out


def test_show_a_name_that_is_not_here(run: Run, cache: Path) -> None:
    outcome = run("models", "show", catalog.DEFAULT)
    assert outcome.status == 0
    assert catalog.CATALOG[catalog.DEFAULT].sha256 in outcome.out
    assert f"outpace models pull {catalog.DEFAULT}" in outcome.out


def test_show_a_damaged_file_is_one_line(run: Run, installed: Path) -> None:
    outcome = run("models", "show", str(installed))
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1


def test_rm_deletes_model_and_packed_form(run: Run, installed: Path) -> None:
    packed = packed_path(installed)
    packed.parent.mkdir()
    packed.write_bytes(b"x")
    outcome = run("models", "rm", catalog.DEFAULT)
    assert outcome.status == 0 and str(installed) in outcome.out
    assert not installed.exists() and not packed.exists()


def test_rm_of_a_file_of_the_users_deletes_only_its_packed_form(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    packed = packed_path(mine, quantize="q8")
    packed.parent.mkdir(parents=True)
    packed.write_bytes(b"x")
    assert str(packed) in run("models", "rm", str(mine)).out
    assert mine.exists() and not packed.exists()
    assert "no packed form" in run("models", "rm", str(mine)).out


@pytest.mark.parametrize("verb", ["show", "rm", "pull"])
def test_unknown_names_list_the_known_ones(run: Run, cache: Path, verb: str) -> None:
    outcome = run("models", verb, "colossus")
    assert outcome.status == 2
    assert "colossus" in outcome.err and catalog.DEFAULT in outcome.err
