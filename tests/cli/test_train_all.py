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


@pytest.mark.parametrize("method", [method for method in OPTIONS if method != "c2t"])
def test_own_text_of_another_length(run: Run, folder: Path, tmp_path: Path, method: str) -> None:
    """It is refused before a word is written, also in the folder of a run that was stopped."""
    shape = ["--steps", "1", "--tokens", "24"]
    outcome = train(run, folder, method, tmp_path, [*shape, "--own-text", "150"], data=False)
    assert outcome.status == 0, outcome.err
    (tmp_path / "run.json").unlink()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for tokens in ("9000", "20"):
        outcome = train(run, folder, method, tmp_path, [*shape, "--own-text", tokens], data=False)
        assert outcome.status == 2 and outcome.err.count("\n") == 1
        named = f"data='own text, seed 0, 150 tokens' (now 'own text, seed 0, {tokens} tokens')"
        assert f"holds files of {named}; accepted are the same or a new folder" in outcome.err
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("method", ["eagle", "early_exit"])
def test_own_text_of_another_model(run: Run, folder: Path, tmp_path: Path, method: str) -> None:
    shape = ["--steps", "1", "--tokens", "24", "--own-text", "150"]
    assert train(run, folder, method, tmp_path, shape, data=False).status == 0
    before = (tmp_path / "own.jsonl").read_bytes()
    other = ["--target", str(folder / "other.gguf"), "--own-text", "3000"]
    outcome = train(run, folder, method, tmp_path, shape, *other, data=False)
    assert outcome.status == 2 and "target='sha256:" in outcome.err and outcome.err.count("\n") == 1
    assert (tmp_path / "own.jsonl").read_bytes() == before
