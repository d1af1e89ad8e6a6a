"""`outpace prepare` on a tiny model: what it makes, what it goes on from, and who uses it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import outpace
from outpace.bench import run as bench_run
from outpace.cli import prepare
from outpace.drafters.auto import FILE_NAME, prepared_draft, write_prepared
from outpace.drafters.lookup.ngram import NGram
from outpace.drafters.lookup.suffix import Suffix
from tests.cli.conftest import Outcome
from tests.fake_models import write_gguf

torch = pytest.importorskip("torch")
from outpace.heads.markov_heads import read_markov  # noqa: E402
from outpace.train import features, markov_heads  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from tests.looped_models import write_looped  # noqa: E402

Run = Callable[..., Outcome]
WRONG: list[Any] = [None, 3, [], "x"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "MEASURED", 8)
    monkeypatch.setattr(prepare, "MOST_ROUNDS", 2)
    write_gguf(tmp_path / "tiny.gguf", "llama")
    return str(tmp_path / "tiny.gguf")


def prepared(run: Run, model: str, *args: str) -> Outcome:
    return run("prepare", "-m", model, "--tokens", "300", "--threads", "1", *args)


def test_everything_lies_beside_the_model_and_is_found(run: Run, model: str) -> None:
    outcome = prepared(run, model, "--steps", "3")
    assert outcome.status == 0, outcome.err
    said = outcome.out.splitlines()
    assert said[0].startswith("text: ") and said[1].startswith("table: ")
    assert said[2] == "heads: trained in 3 steps"
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
    assert again.status == 0 and again.out.splitlines()[0] == said[0]
    assert f"heads: there since before; to train them anew, remove {files[1]}" in again.out
    assert before == [file.stat().st_mtime_ns for file in files]


def test_a_second_run_beside_the_first_is_refused(
    run: Run, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of the first one, which ends well; a third run behind it is none beside it."""
    args = ["prepare", "-m", model, "--tokens", "300", "--steps", "0", "--threads", "1"]
    command = [sys.executable, "-c", f"from outpace.cli.main import main; raise SystemExit(main({args}))"]
    seen = []

    def beside(loaded: Any, text: Path, tokens: int) -> None:
        before = text.read_bytes()
        seen.append(subprocess.run(command, capture_output=True, text=True))
        assert before and text.read_bytes() == before

    monkeypatch.setattr(prepare, "_count", beside)
    monkeypatch.setattr(prepare, "_measure", lambda *args: ("ngram", []))
    monkeypatch.setattr(prepare, "_choose", lambda *args: None)
    for _ in range(2):
        outcome = prepared(run, model, "--steps", "0")
        assert outcome.status == 0, outcome.err
    for second in seen:
        assert second.returncode == 2 and not second.stdout
        assert (
            second.stderr.startswith("error: another process is at work on ") and "own.jsonl" in second.stderr
        )
        assert second.stderr.count("\n") == 1


def test_a_training_that_was_stopped_goes_on(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine that finds the other precision faster now, by another name of the file."""
    monkeypatch.setattr("outpace.train.precision.faster_precision", lambda device: "float32")
    monkeypatch.setattr(
        "outpace.train.jobs_markov.Plan",
        lambda *args, **options: Plan(*args, **options | {"checkpoint_s": 0}),
    )
    real, steps = markov_heads.markov_loss, []

    def counted(*args: Any) -> Any:
        steps.append(args)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(markov_heads, "markov_loss", counted)
    assert prepared(run, model, "--steps", "5").status != 0
    monkeypatch.setattr("outpace.train.precision.faster_precision", lambda device: "bfloat16")
    monkeypatch.chdir(tmp_path)
    outcome = prepared(run, "tiny.gguf", "--steps", "5")
    assert outcome.status == 0, outcome.err
    assert "table: there since before" in outcome.out and "heads: trained in 5 steps" in outcome.out
    assert len(steps) == 3 + 3
    made = read_markov(outpace.load(model, threads=1).beside("markov_heads")).config
    assert made.model == model and made.length == 4


def test_states_are_kept_while_the_text_is_written_or_read_from_one_that_is_there(
    run: Run, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are the same, whether the text was written for them or before, for a table."""
    real, read, made = features.hidden_states, list[int](), list[bytes]()

    def counted(target: Any, token_ids: Sequence[int], *args: Any) -> Any:
        read.append(len(token_ids))
        return real(target, token_ids, *args)

    monkeypatch.setattr(features, "hidden_states", counted)
    for first in ((), ("--steps", "0")):
        monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / f"cache{len(made)}"))
        for options in filter(None, (first, ("--steps", "3"))):
            assert prepared(run, model, *options).status == 0
        made.append(
            (outpace.load(model, threads=1).beside("markov_heads") / "model.safetensors").read_bytes()
        )
        assert bool(read) is bool(first)
    assert made[0] == made[1]


def test_heads_of_other_options_are_kept(run: Run, model: str) -> None:
    assert prepared(run, model, "--steps", "2").status == 0
    folder = outpace.load(model, threads=1).beside("markov_heads")
    note = json.loads((folder / "run.json").read_text())
    del note["finished"]  # as after a kill
    (folder / "run.json").write_text(json.dumps(note))
    outcome = prepared(run, model, "--steps", "4")
    assert outcome.status == 2 and f"to train heads anew, remove {folder}" in outcome.err


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        *(("settings", wrong, "run.json cannot be read") for wrong in WRONG),
        *(("precision", wrong, "holds a run with precision=") for wrong in [*WRONG, {}]),
        *(("model", wrong, "holds a run with model=") for wrong in [*WRONG[:-1], {}]),
    ],
)
def test_a_note_of_heads_with_other_types_is_refused(
    run: Run, model: str, field: str, value: object, said: str
) -> None:
    assert prepared(run, model, "--steps", "1").status == 0
    folder = outpace.load(model, threads=1).beside("markov_heads")
    note = json.loads((folder / "run.json").read_text())
    del note["finished"]
    (note if field == "settings" else note["settings"])[field] = value
    text = json.dumps(note)
    (folder / "run.json").write_text(text)
    outcome = prepared(run, model, "--steps", "1")
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and said in outcome.err
    assert (folder / "run.json").read_text() == text


def test_heads_of_another_text_are_kept(run: Run, model: str) -> None:
    """More text, or less, is asked for: nothing is written, and the first run still goes on."""
    assert prepared(run, model, "--steps", "2").status == 0
    loaded = outpace.load(model, threads=1)
    folder, before = loaded.beside("markov_heads"), loaded.beside("own.jsonl").read_bytes()
    for tokens in ("90000", "20"):
        outcome = prepared(run, model, "--steps", "2", "--tokens", tokens)
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and outcome.out == ""
        assert f"{folder} holds files of tokens=300 (now {tokens}); accepted are the same" in outcome.err
        assert outcome.err.endswith(f"; to train heads anew, remove {folder}\n")
    assert loaded.beside("own.jsonl").read_bytes() == before
    assert prepared(run, model, "--steps", "2").status == 0


def test_a_looped_model_is_refused_at_once(run: Run, model: str, tmp_path: Path) -> None:
    write_looped(tmp_path / "looped", "looped")
    outcome = prepared(run, str(tmp_path / "looped"))
    assert outcome.status == 2 and "is a looped model, which drafts for itself" in outcome.err
    assert outcome.out == ""


def test_a_table_alone(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "find_spec", lambda name: None)
    outcome = prepared(run, model, "--steps", "3")
    assert outcome.status == 0 and "markov_heads" not in outcome.out
    assert "heads are left out: training needs the extra torch" in outcome.err
    monkeypatch.undo()


def test_a_table_of_less_text_is_counted_anew(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody else has made it; how much text there is by default goes by what it is for."""
    monkeypatch.setattr(prepare, "OF_A_TABLE", 200)
    monkeypatch.setattr(prepare, "TOKENS", 600)
    monkeypatch.setattr(prepare, "_measure", lambda *args: ("ngram", []))
    monkeypatch.setattr(prepare, "_choose", lambda *args: None)
    plain = ("prepare", "-m", model, "--threads", "1")

    def tokens(said: str) -> int:
        return int(said.split()[1])

    first = run(*plain, "--steps", "0").out.splitlines()
    table = outpace.load(model, threads=1).beside("backoff.npz")
    before = table.read_bytes()
    assert 200 <= tokens(first[0]) < 600
    assert run(*plain, "--steps", "0").out.splitlines()[1].startswith("table: there since before")
    assert table.read_bytes() == before
    second = run(*plain, "--steps", "1").out.splitlines()
    assert tokens(second[0]) >= 600 and "contexts" in second[1] and table.read_bytes() != before
    for damaged in (b"{}", b"[", b'{"tokens": "x"}', None):
        if damaged is None:
            table.with_name(table.name.replace("backoff.npz", prepare.COUNTED)).unlink()
        else:
            table.with_name(table.name.replace("backoff.npz", prepare.COUNTED)).write_bytes(damaged)
        kept = run(*plain, "--steps", "0", "--tokens", str(tokens(second[0]) + 200))
        assert kept.status == 0 and "table: there since before" in kept.out, kept.err


def test_drafts_race_in_rounds(run: Run, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With invented times: one draft is surely behind after a round, two others are not told apart by it.

    In the second round the machine is three times as slow, and no ratio in the table changes by that.
    """
    suffix, backoff = "mix:drafts=ngram+suffix", "mix:drafts=ngram+backoff"
    seconds = {"none": 1.0, "ngram": 0.7, suffix: 2.0, backoff: 0.5}
    real, rounds, shown = bench_run.run_bench, list[list[dict[str, Any]]](), list[tuple[int, int, str]]()

    def timed(*args: Any, **options: Any) -> Any:
        records, too_long = real(*args, **options)
        for one in records:
            by_prompt = 0.2 * (-1) ** int(one["prompt_digest"], 16) if one["draft"] == "ngram" else 0.0
            s = (seconds[one["draft"]] + by_prompt) * 3 ** len(rounds)
            one |= {"target_calls": 1, "mean_accepted_length": 8.0, "tokens_per_s": 8.0 / s}
            one |= {"wall_s": s + 9.0, "time_to_first_token_s": 9.0}
        rounds.append(records)
        return records, too_long

    @contextmanager
    def bar() -> Iterator[Any]:
        yield lambda *told: shown.append(told)

    monkeypatch.setattr(bench_run, "run_bench", timed)
    monkeypatch.setattr(prepare, "progress_bar", bar)
    outcome = prepared(run, model, "--steps", "0")
    assert outcome.status == 0, outcome.err
    first, second = rounds
    assert {one["draft"] for one in first} == {"none", "ngram", suffix, backoff}
    assert {one["draft"] for one in second} == {"none", "ngram", backoff}
    orders = [[one["prompt_digest"] for one in records if one["draft"] == "none"] for records in rounds]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert [one["draft"] for one in second[:3]] == ["none", backoff, "ngram"]
    assert not {id(one) for one in first} & {id(one) for one in second}
    num_prompts = len(set(orders[0]))  # the tiny context is too short for one of the package's 13
    assert f"rounds: 2, of {num_prompts} prompts each" in outcome.out and num_prompts == 12
    loaded = outpace.load(model, threads=1)
    note = json.loads(loaded.beside(FILE_NAME).read_text())
    assert note["draft"] == backoff and outcome.out.endswith(f"where no draft is named: {backoff}\n")
    times = note["times_plain"]
    assert (times["none"], times[suffix], times[backoff]) == (1.0, 0.5, 2.0) and 1.2 < times["ngram"] < 1.7
    for number, count in ((1, 4 * num_prompts), (2, 3 * num_prompts)):
        told = [one[:2] for one in shown if one[2] == f"measuring, round {number} of at most 2"]
        assert told == [(done, count) for done in range(count + 1)]


def test_a_draft_that_changed_the_text_ends_it(model: str) -> None:
    from outpace.bench.report import Row
    from outpace.models.method import Method

    def row(draft: str, identical: float) -> Row:
        return Row("overall", Method(draft), 1, 9.0, [1.0], 1, 1, 1, 0, 1, "identical", "bitwise", identical)

    loaded = outpace.load(model, threads=1)
    with pytest.raises(outpace.OutpaceError, match="a draft has changed the text"):
        prepare._choose(loaded, "ngram", [row("none", 1.0), row("ngram", 0.5)])
    assert prepared_draft(loaded.beside) is None


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("{", "draft.json"),
        ('{"draft": 3}', "its draft is 3, expected a text"),
        ('{"draft": "x"}', "'x'"),
        ('{"draft": "auto"}', "its draft is auto, accepted are drafts without auto"),
        ('{"draft": "phrases:draft=auto"}', "its draft is phrases:draft=auto, accepted are drafts without"),
    ],
)
def test_a_damaged_note_is_left_out(
    run: Run, model: str, damage: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = outpace.load(model, threads=1)
    assert loaded.own_draft == "ngram"
    write_prepared(loaded.beside(FILE_NAME), "suffix", {})
    assert outpace.load(model, threads=1).own_draft == "suffix"
    for args in (["--json"], ["--compare"]):
        assert "suffix" in run("generate", "x", "-m", model, "--max-tokens", "4", *args).out
    # What is lossy is never chosen by a measurement of speed, and other rules may be.
    typical = run("generate", "x", "-m", model, "--max-tokens", "4", "--json", "--rule", "typical")
    assert json.loads(typical.out)["draft"] == "ngram"
    write_prepared(loaded.beside(FILE_NAME), "mix:drafts=ngram+markov_heads", {})
    assert outpace.load(model, threads=1).own_draft == "ngram"
    assert "drafts with ngram, `outpace prepare` finds a faster draft: there are no heads" in caplog.text
    caplog.clear()
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
        (["--seed", "-1"], "--seed must be 0 to 4294967295"),
    ],
)
def test_bad_options_get_one_line(run: Run, model: str, args: list[str], message: str) -> None:
    outcome = prepared(run, model, *args)
    assert outcome.status == 2 and outcome.out == ""
    assert message in outcome.err and outcome.err.count("\n") == 1


def test_auto_is_the_draft_that_was_found(run: Run, model: str) -> None:
    """By its name as without one; a file that names auto itself is left out."""
    loaded = outpace.load(model, threads=1)
    assert isinstance(loaded.drafter("auto"), NGram)
    write_prepared(loaded.beside(FILE_NAME), "suffix:max_depth=5", {})
    again = outpace.load(model, threads=1)
    assert isinstance(again.drafter("auto"), Suffix) and again.own_draft == "suffix:max_depth=5"
    outcome = run("generate", "x", "-m", model, "--draft", "auto", "--max-tokens", "4", "--compare")
    assert outcome.status == 0 and "identical: yes" in outcome.out
    outcome = run("generate", "x", "-m", model, "--draft", "auto tree=chain", "--max-tokens", "4")
    assert outcome.status == 2 and "takes no tree" in outcome.err
