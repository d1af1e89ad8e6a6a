"""What all trainings do alike with their options."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
from tests.cli.trainings import Run, train, written

OPTIONS: dict[str, list[str]] = {
    "blockwise": [],
    "markov_heads": [],
    "medusa": [],
    "hydra": [],
    "eagle": [],
    "early_exit": [],
    "c2t": ["--draft", "layer_skip"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("all"))


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


def test_all_of_them_are_here() -> None:
    from outpace.cli.train import app

    assert {command.name for command in app.registered_commands} == OPTIONS.keys()


@pytest.mark.parametrize("method", OPTIONS)
def test_a_learning_rate_without_end(run: Run, folder: Path, tmp_path: Path, method: str) -> None:
    outcome = train(run, folder, method, tmp_path / "new", OPTIONS[method], "--lr", "inf")
    assert outcome.status == 2
    assert outcome.err == "error: --lr is inf, accepted are finite numbers more than 0\n"


@pytest.mark.parametrize("method", OPTIONS)
def test_the_home_folder(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    # A file is no folder: the message has the place that was tried.
    (tmp_path / "file").write_text("")
    outcome = train(run, folder, method, Path("~/file/new"), OPTIONS[method])
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert outcome.err.startswith(f"error: cannot write {tmp_path / 'file'}")
    assert not (tmp_path / "~").exists()
