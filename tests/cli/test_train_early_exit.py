"""`outpace train early_exit` on a tiny model, from texts to drafts; what is wrong is named in a line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
from outpace.heads.exit_adapter import read_adapter  # noqa: E402
from tests.cli import trainings  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.cli.trainings import Run, compared, written  # noqa: E402

SHAPE = ["--steps", "4", "--batch", "256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("early_exit"))


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


def train(run: Run, folder: Path, output: Path, *args: str, data: bool = True) -> Outcome:
    return trainings.train(run, folder, "early_exit", output, SHAPE, *args, data=data)


def test_an_adapter_is_trained_on_data_and_drafts(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = train(run, folder, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path}: an adapter behind 1 layers of ")
    adapter = read_adapter(tmp_path)
    assert adapter.config.layers == 1 and adapter.token_ids is not None
    assert json.loads((tmp_path / "run.json").read_text())["finished"]["layers"] == 1
    ours = f"early_exit:path={tmp_path}"
    for sampled in ([], ["--temperature", "0.9", "--seed", "4"]):
        for draft in (f"{ours} tree=chain:length=3", f"mix:drafts=ngram+[{ours}]"):
            outcome = compared(run, folder, draft, *sampled)
            assert outcome.status == 0 and "identical: yes" in outcome.out
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train(run, folder, tmp_path).status == 0
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    for args, message in ((["--lr", "1"], "holds a run with"), (["--layers", "2"], "files of taps='0'")):
        outcome = train(run, folder, tmp_path, *args)
        assert outcome.status == 2 and message in outcome.err
    outcome = compared(run, folder, ours, model="other.gguf")
    assert outcome.status == 2 and "was trained on another model" in outcome.err
    outcome = compared(run, folder, "early_exit:path=auto")
    assert outcome.status == 2 and "accepted is early_exit:path=FOLDER" in outcome.err


def test_own_text_and_the_whole_vocabulary(run: Run, folder: Path, tmp_path: Path) -> None:
    """A run that is given the same goes on with what it has written."""
    args = ["--own-text", "150", "--tokens", "0", "--layers", "2", "--precision", "bfloat16"]
    for _ in range(2):
        outcome = train(run, folder, tmp_path, *args, data=False)
        assert outcome.status == 0, outcome.err
    adapter = read_adapter(tmp_path)
    assert adapter.config.layers == 2 and adapter.token_ids is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "0"], "--steps must be 1 or more"),
        (["--lr", "0"], "--lr more than 0"),
        (["--checkpoint", "-1"], "--checkpoint 0 or more"),
        (["--seed", "-1"], "--seed must be 0 to"),
        (["--own-text", "9"], "accepted are --data FILE or --own-text N, one of them"),
        (["--layers", "3"], "early_exit has layers=3, accepted are 1 to 2 of the model's 3"),
        (["--layers", "-1"], "early_exit has layers=-1, accepted are whole numbers from 0 to"),
        (["--tokens", "-1"], "early_exit has tokens=-1, accepted are whole numbers from 0 to"),
        (["--batch", "0"], "early_exit has batch=0, accepted are whole numbers from 1 to"),
        (["--precision", "float16"], "'float32', 'bfloat16'"),
        (["--target", "nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_bad_options_get_one_line(
    run: Run, folder: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    outcome = train(run, folder, tmp_path / "new", *args)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
