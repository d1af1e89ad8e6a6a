"""`outpace train c2t` on a tiny model, from prompts to drafts; what is wrong is named before it starts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from outpace.heads.c2t import read_c2t  # noqa: E402
from outpace.train import c2t  # noqa: E402
from tests.cli.conftest import Outcome  # noqa: E402
from tests.cli.test_train import PAIRS, lines  # noqa: E402
from tests.fake_models import write_gguf  # noqa: E402

Run = Callable[..., Outcome]
DRAFT = "early_exit:layers=1"
SHAPE = ["--k", "3", "--depth", "3", "--max-tokens", "24", "--epochs", "2", "--width", "8", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("c2t")
    write_gguf(made / "tiny.gguf", "llama")
    lines(made / "data.jsonl", PAIRS)
    return made


@pytest.fixture(autouse=True)
def own_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))


def train(run: Run, folder: Path, output: Path, *args: str) -> Outcome:
    """The last of an option that is given twice counts."""
    given = ["--data", str(folder / "data.jsonl"), "--target", str(folder / "tiny.gguf"), "--draft", DRAFT]
    return run("train", "c2t", "-o", str(output), *given, *SHAPE, *args)


def test_a_classifier_is_trained_and_shapes_trees(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = train(run, folder, tmp_path / "one")
    assert outcome.status == 0, outcome.err
    assert outcome.out.startswith(f"{tmp_path / 'one'}: a classifier for {DRAFT} of ")
    one = read_c2t(tmp_path / "one")
    assert (one.config.width, one.config.draft) == (8, DRAFT)
    written = json.loads((tmp_path / "one" / "run.json").read_text())
    assert written["trees"] > 3 and written["settings"]["epochs"] == 2
    for beta, sampled in (("0.0", []), ("0.02", ["--temperature", "0.9", "--seed", "4"])):
        outcome = run(
            "generate", PAIRS[0]["prompt"], "-m", str(folder / "tiny.gguf"), "--draft", DRAFT, "--tree",
            f"c2t:path={tmp_path / 'one'},beta={beta},k=3,depth=3", "--max-tokens", "24", "--compare",
            *sampled,
        )  # fmt: skip
        assert outcome.status == 0 and "identical: yes" in outcome.out
    next_one = train(run, folder, tmp_path / "next", "--from", str(tmp_path / "one"), "--limit", "2")
    assert next_one.status == 0, next_one.err
    assert json.loads((tmp_path / "next" / "run.json").read_text())["settings"]["lr"] == 3e-4
    wide = train(run, folder, tmp_path / "wide", "--from", str(tmp_path / "one"), "--width", "9")
    assert wide.status == 2 and "accepted is one of 9 units" in wide.err
    assert not (tmp_path / "wide").exists(), "said before the rows are written"
    monkeypatch.setattr(c2t, "rows_of", lambda *_, **__: pytest.fail("written already"))
    monkeypatch.setattr(c2t, "train", lambda *_, **__: pytest.fail("trained already"))
    again = train(run, folder, tmp_path / "one")
    assert again.status == 0
    other = train(run, folder, tmp_path / "one", "--k", "2")
    assert other.status == 2 and "holds files of k=3 (now 2)" in other.err
    write_gguf(tmp_path / "tiny.gguf", "llama", seed=1)  # another model of the same name
    other = train(run, folder, tmp_path / "one", "--target", str(tmp_path / "tiny.gguf"))
    assert other.status == 2 and "holds files of target='sha256:" in other.err
    assert other.err.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--k", "0"], "--k, --depth, --width and --epochs must be 1 or more"),
        (["--max-tokens", "0"], "--max-tokens, --k"),
        (["--limit", "-1"], "--limit 0 or more"),
        (["--lr", "0"], "--lr more than 0"),
        (["--lr", "nan"], "--lr more than 0"),
        (["--seed", "-1"], "--seed must be 0 to 4294967295"),
        (["--threads", "0"], "--threads 1 to 1024"),
        (["--draft", "ngram"], "takes no tree, accepted are"),
        (["--draft", "nothing"], "unknown drafter 'nothing', accepted are"),
        (["--target", "nowhere.gguf"], "nowhere.gguf"),
        (["--max-tokens", "100000"], "c2t has max_tokens=100000, accepted are 1 to"),
        (["--max-tokens", "2"], "c2t has max_tokens=2 and depth=3"),
        (
            ["--width", str((1 << 20) + 1)],
            "c2t has width=1048577, accepted are whole numbers from 1 to 1048576",
        ),
        (["--k", "1000"], "k nodes and depth levels has size=2001000, accepted are whole numbers from 1 to"),
        (["--max-tokens", "3"], "of 0 drafted nodes 0 are kept"),
        (["--from", "nowhere"], "no folder of heads nowhere"),
    ],
)
def test_bad_options_get_one_line(
    run: Run, folder: Path, tmp_path: Path, args: list[str], message: str
) -> None:
    outcome = train(run, folder, tmp_path / "new", *args)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1, outcome.err


def test_data_without_prompts(run: Run, folder: Path, tmp_path: Path) -> None:
    bad: list[Any] = [PAIRS[0], {"prompt": "x"}]
    outcome = train(run, folder, tmp_path / "new", "--data", str(lines(tmp_path / "bad.jsonl", bad)))
    assert outcome.status == 2 and "bad.jsonl, line 2" in outcome.err
    lines(tmp_path / "ids.jsonl", [{"prompt_ids": [7, 300], "token_ids": [1]}])
    outcome = run(
        "train", "c2t", "-o", str(tmp_path / "new"), "--data", str(tmp_path / "ids.jsonl"), "--target",
        str(folder / "tiny.gguf"), "--draft", DRAFT, *SHAPE,
    )  # fmt: skip
    assert outcome.status == 2 and "outside 0 to 299" in outcome.err and outcome.err.count("\n") == 1
