"""`outpace train hydra` on a tiny model, from texts to drafts; what is wrong is named in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.files.open import packed_path  # noqa: E402
from outpace.heads.hydra import read_hydra  # noqa: E402
from tests.cli import trainings  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.cli.trainings import Run, compared, written  # noqa: E402

SHAPE = ["--heads", "3", "--batch", "128", "--steps", "9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("hydra"))


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


def train(run: Run, folder: Path, output: Path, *args: str, data: bool = True) -> Outcome:
    return trainings.train(run, folder, "hydra", output, SHAPE, *args, data=data)


def test_heads_are_trained_on_data_and_draft(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = train(run, folder, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path}: 3 Hydra heads for ")
    heads = read_hydra(tmp_path)
    assert heads.config.num_heads == 3 and heads.config.shared_output and heads.token_ids is not None
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert settings["method"] == "hydra" and settings["steps"] == 9
    ours = f"hydra:path={tmp_path}"
    for sampled in ([], ["--temperature", "0.9", "--seed", "4"]):
        for draft in (ours, f"mix:drafts=ngram+[{ours}]"):
            outcome = compared(run, folder, draft, *sampled)
            assert outcome.status == 0 and "identical: yes" in outcome.out
    outcome = run("heads", "doctor", str(tmp_path), "-m", str(folder / "tiny.gguf"))
    assert outcome.status == 0 and "Hydra heads, made for Outpace" in outcome.out
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train(run, folder, tmp_path).status == 0
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    outcome = train(run, folder, tmp_path, "--layers", "2")
    assert outcome.status == 2 and "holds a run with num_layers=1" in outcome.err
    outcome = trainings.train(run, folder, "medusa", tmp_path, SHAPE)
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and "holds a run with" in outcome.err
    outcome = run("generate", "x", "-m", str(folder / "other.gguf"), "--draft", ours)
    assert outcome.status == 2 and "were trained on another model" in outcome.err
    outcome = compared(run, folder, "hydra")
    assert outcome.status == 2 and "accepted is hydra:path=FOLDER" in outcome.err


def test_own_text_and_heads_that_lie_with_the_model(run: Run, folder: Path, tmp_path: Path) -> None:
    beside = packed_path(folder / "tiny.gguf").with_suffix(".hydra")
    args = ["--own-text", "200", "--tokens", "24", "--outputs", "own", "--precision", "bfloat16"]
    outcome = train(run, folder, beside, *args, data=False)
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (beside / "own.jsonl").read_text().splitlines()]
    written = [token for record in records for token in record["token_ids"]]
    heads = read_hydra(beside)
    states = np.fromfile(beside / "features" / "states.f16", np.float16)
    assert len(states) == len(written) * heads.config.hidden_size and not heads.config.shared_output
    assert heads.token_ids is not None and set(heads.token_ids.tolist()) <= set(written)
    outcome = compared(run, folder, "hydra")
    assert outcome.status == 0 and "identical: yes" in outcome.out


def test_all_tokens(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = train(run, folder, tmp_path, "--tokens", "0", "--steps", "1")
    assert outcome.status == 0 and read_hydra(tmp_path).token_ids is None


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--heads", "0"], "--heads, --layers and --steps must be 1 or more, --tokens 0 or more"),
        (["--own-text", "9"], "accepted are --data FILE or --own-text N, one of them"),
        (["--batch", "100"], "hydra has batch=100, accepted are multiples of 64"),
        (["--heads", "65"], "hydra has num_heads=65, accepted are whole numbers from 1 to 64"),
        (["--layers", "17"], "hydra has num_layers=17, accepted are whole numbers from 1 to 16"),
        (["--outputs", "none"], "'shared', 'own'"),
        (["--target", "nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_bad_options_get_one_line(
    run: Run, folder: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    outcome = train(run, folder, tmp_path / "new", *args)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
