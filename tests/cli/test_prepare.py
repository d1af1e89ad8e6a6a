"""`outpace prepare` on a tiny model: what it makes, what it goes on from, and who uses it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import outpace
from outpace.cli import prepare
from outpace.models.prepared import FILE_NAME, prepared_draft, write_prepared
from tests.cli.conftest import Outcome
from tests.fake_models import write_gguf

torch = pytest.importorskip("torch")

Run = Callable[..., Outcome]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "MEASURED", 8)
    write_gguf(tmp_path / "tiny.gguf", "llama")
    return str(tmp_path / "tiny.gguf")


def prepared(run: Run, model: str, *args: str) -> Outcome:
    return run("prepare", "-m", model, "--tokens", "300", "--threads", "1", *args)


def test_everything_lies_beside_the_model_and_is_found(run: Run, model: str) -> None:
    outcome = prepared(run, model, "--steps", "3")
    assert outcome.status == 0, outcome.err
    said = outcome.out.splitlines()
    assert said[0].startswith("text: ") and said[1].startswith("table: ")
    assert said[2] == "heads: a block of 4 positions, 3 steps"
    assert "mix:drafts=ngram+backoff+markov_heads" in outcome.out
    chosen = said[-1].removeprefix("from now on, where no draft is named: ")
    loaded = outpace.load(model, threads=1)
    note = json.loads(loaded.beside(FILE_NAME).read_text())
    assert loaded.own_draft == chosen == note["draft"] and note["times_plain"]["none"] == 1.0
    assert not (loaded.beside("markov_heads") / "features").exists()
    for draft in ("backoff", "markov_heads", "mix:drafts=ngram+backoff+markov_heads", "mix"):
        found = loaded.generate("one two three", draft=draft, max_tokens=12)
        assert found.token_ids == loaded.generate("one two three", draft="none", max_tokens=12).token_ids
    files = [loaded.beside("own.jsonl"), loaded.beside("markov_heads")]
    before = [file.stat().st_mtime_ns for file in files]
    again = prepared(run, model, "--steps", "9")
    assert again.status == 0 and again.out.splitlines()[:2] == said[:2]
    assert f"heads: there since before; to train them anew, remove {files[1]}" in again.out
    assert before == [file.stat().st_mtime_ns for file in files]


def test_a_table_alone(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    outcome = prepared(run, model, "--steps", "3")
    assert outcome.status == 0 and "markov_heads" not in outcome.out
    assert "heads are left out: training needs the extra torch" in outcome.err
    monkeypatch.undo()


def test_the_fastest_is_chosen_where_it_is_clearly_faster(run: Run, model: str) -> None:
    from outpace.bench.report import Row
    from outpace.models.method import Method

    def row(draft: str, ratio: float, identical: float = 1.0) -> Row:
        return Row("overall", Method(draft), 1, 9.0, ratio, 1, 1, 1, 0, 1, "identical", "bitwise", identical)

    loaded = outpace.load(model, threads=1)
    for more, chosen in (({"backoff": 1.4}, "backoff"), ({"mix": 1.32}, "ngram")):
        times = {"ngram": 1.3, **more}
        prepare._choose(loaded, [row("none", 1.0), *(row(*pair) for pair in times.items())])
        assert prepared_draft(loaded.beside) == chosen
    with pytest.raises(outpace.OutpaceError, match="a draft has changed the text"):
        prepare._choose(loaded, [row("none", 1.0), row("ngram", 1.0, 0.5)])


@pytest.mark.parametrize(
    ("damage", "said"),
    [("{", "draft.json"), ('{"draft": 3}', "its draft is 3, expected a text"), ('{"draft": "x"}', "'x'")],
)
def test_a_damaged_note_is_left_out(
    model: str, damage: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = outpace.load(model, threads=1)
    assert loaded.own_draft == "ngram"
    write_prepared(loaded.beside(FILE_NAME), "suffix", {})
    assert outpace.load(model, threads=1).own_draft == "suffix"
    loaded.beside(FILE_NAME).write_text(damage)
    assert outpace.load(model, threads=1).own_draft == "ngram"
    [line] = caplog.messages
    assert said in line and "is left out, `outpace prepare` makes it anew" in line and "\n" not in line


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tokens", "0"], "--tokens must be 1 or more, --steps 0 or more"),
        (["--steps", "-1"], "--tokens must be 1 or more, --steps 0 or more"),
        (["-m", "nowhere.gguf"], "nowhere.gguf"),
        (["--seed", "-1"], "seed is -1, accepted are whole numbers from 0 to"),
    ],
)
def test_bad_options_get_one_line(run: Run, model: str, args: list[str], message: str) -> None:
    outcome = prepared(run, model, *args)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1
