"""`outpace train eagle` on a tiny model, from texts to drafts; what is wrong is named in a line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.files.rope import rope_table  # noqa: E402
from outpace.heads.eagle import read_eagle  # noqa: E402
from tests.cli import trainings  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.cli.trainings import Run, compared, written  # noqa: E402

SHAPE = ["--width", "48", "--unrolled", "2", "--steps", "4", "--batch", "256"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("eagle"))


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


def train(run: Run, folder: Path, output: Path, *args: str, data: bool = True) -> Outcome:
    return trainings.train(run, folder, "eagle", output, SHAPE, *args, data=data)


def test_a_layer_is_trained_on_data_and_drafts(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = train(run, folder, tmp_path)
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path}: an EAGLE-3 layer that drafts ")
    layer = read_eagle(tmp_path).config
    assert layer.taps == ("0", "1") and layer.intermediate_size == 48 and layer.fc_norm
    ours = f"eagle:path={tmp_path}"
    for sampled in ([], ["--temperature", "0.9", "--seed", "4"]):
        for draft in (f"{ours} tree=chain:length=3", f"mix:drafts=ngram+[{ours}]"):
            outcome = compared(run, folder, draft, *sampled)
            assert outcome.status == 0 and "identical: yes" in outcome.out
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert train(run, folder, tmp_path).status == 0
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    outcome = train(run, folder, tmp_path, "--unrolled", "3")
    assert outcome.status == 2 and "holds a run with unrolled=2" in outcome.err
    outcome = train(run, folder, tmp_path, "--taps", "1,2")
    assert outcome.status == 2 and "files of taps='0, 1'" in outcome.err
    outcome = compared(run, folder, ours, model="other.gguf")
    assert outcome.status == 2 and "were trained on another model" in outcome.err
    outcome = compared(run, folder, "eagle")
    assert outcome.status == 2 and "accepted is eagle:path=FOLDER" in outcome.err


def test_own_text_is_whole_texts(run: Run, folder: Path, tmp_path: Path) -> None:
    """States of prompts are there too; a run that is given the same goes on with what it has written."""
    args = ["--own-text", "150", "--tokens", "24", "--precision", "bfloat16"]
    for _ in range(2):
        outcome = train(run, folder, tmp_path, *args, data=False)
        assert outcome.status == 0, outcome.err
    records = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    texts = [[*record["prompt_ids"], *record["token_ids"]] for record in records]
    tokens = np.fromfile(tmp_path / "features" / "tokens.i32", np.int32).tolist()
    assert tokens == [token for text in texts for token in text[1:]]
    answers = {token for record in records for token in record["token_ids"]}
    ids = read_eagle(tmp_path).token_ids
    assert ids is not None and len(ids) <= 24 and set(ids.tolist()) <= answers


@pytest.mark.parametrize("args", [["--unrolled", "99"], ["--width", "0"], ["--taps", "1,1"]])
def test_no_text_is_written_for_bad_options(run: Run, folder: Path, tmp_path: Path, args: list[str]) -> None:
    outcome = train(run, folder, tmp_path / "new", "--own-text", "100", *args, data=False)
    assert outcome.status == 2 and "accepted are" in outcome.err and not (tmp_path / "new").exists()


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}])
def test_the_rotary_base_is_the_models(scaling: dict[str, object] | None) -> None:
    """Whatever scales its tables."""
    from outpace.train.jobs_eagle import like

    table, _ = rope_table(64, 1e4, scaling=scaling, context_length=512)
    model = SimpleNamespace(
        rope_inv_freq=[table], head_dim=64, num_heads=4, num_kv_heads=2, intermediate_size=8, rms_eps=1e-6,
        context_length=512,
    )  # fmt: skip
    assert like(model, None)["rope_theta"] == 1e4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--steps", "0"], "--steps must be 1 or more"),
        (["--lr", "0"], "--lr more than 0"),
        (["--checkpoint", "-1"], "--checkpoint 0 or more"),
        (["--seed", "-1"], "--seed must be 0 to"),
        (["--own-text", "9"], "accepted are --data FILE or --own-text N, one of them"),
        (["--taps", "9"], "unknown tap '9', accepted are final and the layers 0 to 2"),
        (["--taps", "1,1"], "eagle has taps 1, 1; accepted are one or more different ones"),
        (["--tokens", "0"], "eagle has tokens=0, accepted are whole numbers from 1 to"),
        (["--unrolled", "17"], "eagle has unrolled=17, accepted are whole numbers from 1 to 16"),
        (["--width", "0"], "eagle has width=0, accepted are whole numbers from 1 to"),
        (["--batch", "0"], "eagle has batch=0, accepted are whole numbers from 1 to"),
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
