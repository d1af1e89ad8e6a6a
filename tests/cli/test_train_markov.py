"""`outpace train markov_heads` on a tiny model, from texts to drafts; what is wrong is named in a line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.heads.markov_heads import read_markov, scaled  # noqa: E402
from tests.cli import trainings  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.cli.trainings import Run, compared, written  # noqa: E402

SHAPE = ["--length", "3", "--width", "16", "--rank", "4", "--segments", "2", "--steps", "9"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("markov"))


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


def train(run: Run, folder: Path, output: Path, *args: str, data: bool = True) -> Outcome:
    return trainings.train(run, folder, "markov_heads", output, SHAPE, *args, data=data)


def test_heads_are_trained_on_data_and_draft(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = train(run, folder, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path}: a block of 3 positions for ")
    heads = read_markov(tmp_path)
    assert heads.config.taps == ("0", "1", "final") and heads.config.rank == 4
    ours = f"markov_heads:path={tmp_path}"
    for sampled in ([], ["--temperature", "0.9", "--seed", "4"]):
        for draft in (f"{ours},min_p=0", f"mix:drafts=ngram+[{ours}]"):
            outcome = compared(run, folder, draft, *sampled)
            assert outcome.status == 0 and "identical: yes" in outcome.out
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train(run, folder, tmp_path).status == 0
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    outcome = train(run, folder, tmp_path, "--rank", "5")
    assert outcome.status == 2 and "holds a run with rank=4" in outcome.err
    outcome = train(run, folder, tmp_path, "--taps", "final")
    assert outcome.status == 2 and "files of taps='0, 1, final'" in outcome.err
    outcome = run(
        "generate", "x", "-m", str(folder / "other.gguf"), "--draft", f"markov_heads:path={tmp_path}"
    )
    assert outcome.status == 2 and "were trained on another model" in outcome.err
    outcome = compared(run, folder, "markov_heads")
    assert outcome.status == 2 and "accepted is markov_heads:path=FOLDER" in outcome.err


def test_own_text_and_its_states_at_all_taps(run: Run, folder: Path, tmp_path: Path) -> None:
    args = ["--own-text", "200", "--tokens", "24", "--taps", "final,2", "--precision", "bfloat16"]
    outcome = train(run, folder, tmp_path, *args, data=False)
    assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    written = [token for record in records for token in record["token_ids"]]
    heads = read_markov(tmp_path)
    width = heads.config.hidden_size
    states = np.fromfile(tmp_path / "features" / "states.f16", np.float16).reshape(len(written), 2 * width)
    assert heads.config.taps == ("final", "2") and set(heads.token_ids.tolist()) <= set(written)
    # Of the two taps, the last layer's output is what the last norm makes "final" of.
    weights = states[:, :width].astype(np.float64) / scaled(states[:, width:])
    np.testing.assert_allclose(weights, np.median(weights, axis=0)[None].repeat(len(written), 0), rtol=0.05)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--length", "0"], "--length, --width, --rank, --tokens, --steps and --segments must be 1 or more"),
        (["--tokens", "0"], "--length, --width, --rank, --tokens, --steps and --segments must be 1 or more"),
        (["--lr", "0"], "--lr more than 0"),
        (["--checkpoint", "-1"], "--checkpoint 0 or more"),
        (["--seed", "-1"], "--seed must be 0 to"),
        (["--own-text", "9"], "accepted are --data FILE or --own-text N, one of them"),
        (["--taps", "9,final"], "unknown tap '9', accepted are final and the layers 0 to 2"),
        (["--taps", "0"], "markov_heads has taps 0; accepted are different ones, final among them"),
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
