"""`outpace models`, with a cache folder of the test's own and nothing fetched."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from outpace.cli.options import DEFAULT_MODEL
from outpace.files import catalog, open_model
from outpace.files.open import packed_path
from tests.cli.conftest import Outcome
from tests.fake_models import write_gguf

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
    assert f"| {catalog.DEFAULT} |" in outcome.out and "| no " in outcome.out
    assert f"0 packed models, 0 MB, in {cache}" in outcome.out


def test_list_sees_an_installed_model(run: Run, installed: Path) -> None:
    assert "| yes " in run("models", "list").out


def test_list_shows_packed_models_in_columns(run: Run, cache: Path, tmp_path: Path) -> None:
    for name in ("one", "the other one"):
        write_gguf(tmp_path / f"{name}.gguf", "qwen2")
        open_model(tmp_path / f"{name}.gguf").close()
    size = packed_path(tmp_path / "one.gguf").stat().st_size
    (tmp_path / "one.gguf").unlink()
    out = run("models", "list").out
    table = [line for line in out.splitlines() if line.startswith("|")][3:]
    assert len(table) == 4 and len({len(line) for line in table}) == 1
    assert all([at for at, letter in enumerate(line) if letter == "|"] for line in table)
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    assert [row[1:4] for row in cells] == [
        [str(tmp_path / "one.gguf"), "-", "source gone"],
        [str(tmp_path / "the other one.gguf"), "-", "source present"],
    ]
    assert float(cells[0][4]) == pytest.approx(size / 1e6, abs=0.06)
    assert "2 packed models, " in out


def test_show_a_name_that_is_not_here(run: Run, cache: Path) -> None:
    outcome = run("models", "show", catalog.DEFAULT)
    assert outcome.status == 0
    assert catalog.CATALOG[catalog.DEFAULT].sha256 in outcome.out
    assert f"not on this machine: outpace models pull {catalog.DEFAULT}" in outcome.out


def test_show_says_whether_the_file_is_what_was_installed(
    run: Run, installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = run("models", "show", catalog.DEFAULT)
    assert outcome.status == 0 and f"{installed}, damaged: its SHA-256 is " in outcome.out
    assert f"outpace models pull {catalog.DEFAULT} fetches it anew" in outcome.out
    write_gguf(installed, "qwen2")
    content = installed.read_bytes()
    entry = replace(
        catalog.CATALOG[catalog.DEFAULT],
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(catalog.CATALOG, catalog.DEFAULT, entry)
    outcome = run("models", "show", catalog.DEFAULT)
    assert f"{installed}, as it was installed" in outcome.out and "architecture" in outcome.out


def test_pull_compares_what_is_there(
    run: Run, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_gguf(tmp_path / "right.gguf", "qwen2")
    content = (tmp_path / "right.gguf").read_bytes()
    entry = replace(
        catalog.CATALOG[catalog.DEFAULT],
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(catalog.CATALOG, catalog.DEFAULT, entry)
    monkeypatch.setattr(catalog, "_fetch", lambda name, progress: installed.write_bytes(content))
    installed.write_bytes(content)
    assert run("models", "pull", catalog.DEFAULT).status == 0
    installed.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert run("models", "pull", catalog.DEFAULT).status == 0
    assert installed.read_bytes() == content


def test_show_a_damaged_file_is_one_line(run: Run, installed: Path) -> None:
    outcome = run("models", "show", str(installed))
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1


def test_rm_deletes_model_and_packed_form(run: Run, installed: Path) -> None:
    packed = packed_path(installed)
    packed.parent.mkdir()
    packed.write_bytes(b"x")
    outcome = run("models", "rm", catalog.DEFAULT)
    assert outcome.status == 0 and outcome.out == f"deleted {installed}\ndeleted {packed}\n"
    assert not installed.exists() and not packed.exists()


def test_rm_of_a_file_of_the_users_deletes_only_its_packed_form(
    run: Run, cache: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    packed = packed_path(mine, quantize="q8")
    packed.parent.mkdir(parents=True)
    packed.write_bytes(b"x")
    assert run("models", "rm", str(mine)).out == f"deleted {packed}\n"
    assert mine.exists() and not packed.exists()
    outcome = run("models", "rm", str(mine))
    assert outcome.status == 2 and f"there is nothing of {mine} to delete" in outcome.err


def test_rm_and_prune_without_the_source(run: Run, cache: Path, tmp_path: Path) -> None:
    source = tmp_path / "one.gguf"
    for command in (["rm", str(source)], ["rm", "ID"], ["prune"]):
        write_gguf(source, "qwen2")
        open_model(source).close()
        packed = packed_path(source)
        source.unlink()
        dry = run("models", "prune", "--dry-run")
        assert dry.status == 0 and packed.exists()
        expected = f"would delete {packed.name[:12]} packed from {source}, source gone: "
        assert dry.out.startswith(expected) and " MB in all" in dry.out
        command = [packed.name[:12] if word == "ID" else word for word in command]
        outcome = run("models", *command)
        assert outcome.status == 0 and "deleted " in outcome.out and not packed.exists()
    assert run("models", "prune").out == "there is nothing to delete\n"


@pytest.mark.parametrize("verb", ["show", "rm", "pull"])
def test_unknown_names_list_the_known_ones(run: Run, cache: Path, verb: str) -> None:
    outcome = run("models", verb, "colossus")
    assert outcome.status == 2
    assert "colossus" in outcome.err and catalog.DEFAULT in outcome.err
