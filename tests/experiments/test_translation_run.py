"""Translation: the whole run on a synthetic corpus, again, and after a kill between steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("ctranslate2")
pytest.importorskip("matplotlib")
pytest.importorskip("sacrebleu")
import sacrebleu
import torch

from experiments.kit.results import Results
from experiments.kit.subjects import EXACT
from experiments.translation import bleu, corpus, ctranslate2, paper, run
from experiments.translation.base import BASE
from experiments.translation.corpus import Segment
from experiments.translation.heads import RENEWED, trainings
from experiments.translation.scales import SCALES
from experiments.translation.settings import LATTICE, MIN_BLOCK, RELAXED, TREE, chains, markov
from experiments.translation.summary import Summary
from outpace.core.errors import OutpaceError
from tests.experiment_runs import check_report, kill, state

SMOKE = SCALES["smoke"]
WORDS = {"red": "rotes", "blue": "blaues", "old": "altes", "new": "neues", "big": "großes", "wet": "nasses"}
THINGS = {"house": "Haus", "book": "Buch", "car": "Auto", "picture": "Bild", "boat": "Boot", "horse": "Pferd"}
PACKAGE = {"package": "toy", "version": "1", "licence": "GPL-2 | MIT", "checksum": "0", "pairs": 216}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a whole run, the corpus in it."""
    work = tmp_path_factory.mktemp("translation")
    write_corpus(work)
    run_smoke(work)
    return work


def write_corpus(work: Path) -> None:
    segments = [
        Segment(f"the {a} {b} {c}", f"das {WORDS[a]} {WORDS[b]} {THINGS[c]}", "toy")
        for a in WORDS for b in WORDS for c in THINGS
    ]  # fmt: skip
    order = np.random.default_rng(0).permutation(len(segments))
    shuffled = [segments[number] for number in order]
    for name, part in {"test": shuffled[:24], "dev": shuffled[24:36], "train": shuffled[36:]}.items():
        corpus.write(work / f"{name}.tsv", part)
    (work / "sources.json").write_text(json.dumps([PACKAGE]))


def run_smoke(work: Path) -> None:
    run.main(smoke_arguments(work))


def smoke_arguments(work: Path) -> list[str]:
    return ["--scale", "smoke", "--work", str(work), "--corpus", str(work), "--threads", "1"]


def results(work: Path) -> Results:
    return Results(work / "smoke" / "results.jsonl")


def of(work: Path, kind: str, **values: Any) -> list[dict[str, Any]]:
    return results(work).of(kind, **values)


def test_a_short_run_comes_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step once, with little training; what comes out of more is what the slow tests look at."""
    short = replace(SMOKE, base_steps=60, frozen_steps=4, finetuned_steps=4, markov_steps=4)
    short = replace(short, sentences=4, timed=1, tuned=2)
    monkeypatch.setitem(SCALES, "smoke", short)
    write_corpus(tmp_path)
    run_smoke(tmp_path)
    for setting in (*chains(short), *markov(short)):
        (outputs,) = of(tmp_path, "outputs", **setting.record)
        assert len(outputs["tokens"]) == 4 and len(of(tmp_path, "time", **setting.record)) == 1
    check_report(tmp_path / "smoke", "blocks.png", "speed.png")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        ctranslate2.translator(ctranslate2.converted(tmp_path / "smoke" / BASE), batches=2)
        assert torch.get_num_threads() == 3  # what is timed next has the threads that were asked for
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_every_cell_of_the_tables_is_measured(made: Path) -> None:
    cells = {(one.training.regime, one.training.data, one.k, one.rule) for one in chains(SMOKE)}
    assert cells == {
        *((regime, data, k, EXACT) for regime, data in paper.BY_REGIME for k in (2, 4)),
        *(("finetuned", RENEWED, k, rule) for k in (2, 4) for rule in RELAXED),
    }
    ours = [one.record for one in (*chains(SMOKE), *markov(SMOKE))]
    assert {(one.training.regime, one.training.data) for one in chains(SMOKE)} == set(paper.BY_REGIME)
    for regime, data in paper.BY_REGIME:
        ours += [{"regime": regime, "data": data, "k": 4, "draft": draft} for draft in (TREE, LATTICE)]
        assert len(of(made, "alpha", regime=regime, data=data)) == len(SMOKE.alphas)
    for setting in ours:
        (outputs,) = of(made, "outputs", **setting)
        for name in ("tokens", "calls", "counts"):
            assert len(outputs[name]) == SMOKE.sentences
        assert all(
            1 <= calls <= tokens for tokens, calls in zip(outputs["tokens"], outputs["calls"], strict=True)
        )
        times = of(made, "time", **setting)
        assert [record["segment"] for record in times] == [0, 1]
        assert all(record["wall_s"] > 0 for record in times)
    models = {BASE, *(one.name for one in trainings(SMOKE) if one.regime == "finetuned")}
    assert {record["model"] for record in of(made, "model")} == models
    for model in models:
        for draft in ("none", "transformers", "ctranslate2"):
            times = of(made, "time", model=model, draft=draft)
            assert len(times) == SMOKE.timed and all(record["same"] for record in times)
        (greedy,) = of(made, "outputs", model=model, draft="none")
        assert greedy["tokens"] == greedy["calls"]


@pytest.mark.slow
def test_exact_is_greedy_and_blocks_are_larger(made: Path) -> None:
    exact = of(made, "outputs", rule=EXACT)
    assert len(exact) > 10
    for record in exact:
        # Where rounding decides, two outputs may part, at no more than a rounding error.
        assert record["same"] + len(record["margins"]) == SMOKE.sentences
        assert all(margin < 1e-4 for margin in record["margins"])
    summary = Summary(results(made))
    rows = {(row.regime, row.data, row.k, row.draft, row.rule): row for row in summary.drafted()}
    for k in (2, 4):
        # The prompt's call gives one token, those after it three, or two where one alone is drafted.
        record = rows["finetuned", RENEWED, k, "chain", MIN_BLOCK].record
        for tokens, calls in zip(record["tokens"], record["calls"], strict=True):
            assert (calls - 2) * min(k, 3) + 2 <= tokens
    # The models still translate and the heads have learned something: without it there is one token a call.
    assert summary.greedy(BASE).bleu > 20
    for regime, data in paper.BY_REGIME:
        row = rows[regime, data, 4, "chain", EXACT]
        assert row.block > 2 and row.bleu > 20


@pytest.mark.slow
def test_the_report_shows_ours_beside_the_papers(made: Path) -> None:
    report = check_report(made / "smoke", "blocks.png", "speed.png")
    line = next(line for line in report.splitlines() if line.startswith("| 4 |"))
    for points in paper.BY_REGIME.values():
        assert f"({points[4][0]:.2f} / {points[4][1]:.2f})" in line
    (mine,) = of(made, "outputs", regime="finetuned", data=RENEWED, k=4, draft="chain", rule=EXACT)
    kept = f"{sum(mine['tokens']) / sum(mine['calls']):.2f}"
    assert f" / {kept} (26.36 / 3.27)" in line
    top = " ".join(report.partition("The first task")[0].split())
    assert f"{kept} (finetuned, renewed; the paper 3.27) tokens per call" in top
    exact = [one for one in of(made, "outputs", rule=EXACT) if one["draft"] != "none"]
    most = max(sum(one["tokens"]) / sum(one["calls"]) for one in exact)
    assert f"of an exact setting are {most:.2f}: " in top
    assert "| toy | 1 | GPL-2 / MIT | 216 |" in report


@pytest.mark.slow
def test_a_second_run_does_nothing(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(made)
    run_smoke(made)
    assert state(made) == before
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_another_seed_is_not_taken_for_this_one(made: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"error: .*base holds a run with seed=0 \(now \d+\); accepted are the same"
    ):
        run.main([*smoke_arguments(made), "--seed", "1"])
    record = made / "smoke" / "heads" / "finetuned-gold-4" / "run.json"
    before = record.read_text()
    record.write_text(before.replace('"model": "marian ', '"model": "marian 0'))
    with pytest.raises(SystemExit, match=r"error: .*finetuned-gold-4 holds a run with model='marian 0"):
        run_smoke(made)
    record.write_text(before)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(made: Path) -> None:
    smoke = made / "smoke"
    before = state(made)
    weights = {name: data for name, (_, data) in before.items() if name.endswith("model.safetensors")}
    assert len(weights) == 1 + 5 + 3 + 2  # base; heads; finetuned models; Markov heads
    trained = smoke / "heads" / "finetuned-renewed-4"
    lines = kill(smoke, trained, trained / "model.safetensors")
    own = smoke / "base" / "own.jsonl"
    own.write_bytes(own.read_bytes()[:-30])  # in the middle of a line
    run_smoke(made)
    after = state(made)
    assert {name: after[name][1] for name in weights} == weights
    assert before["smoke/base/model.safetensors"] == after["smoke/base/model.safetensors"]
    again = (smoke / "results.jsonl").read_bytes().splitlines(keepends=True)
    assert again[: len(lines) - 5] == lines[:-5]
    assert len(Summary(results(made)).rows) == len(of(made, "outputs")) > 0
    assert (smoke / "REPORT.md").exists()


@pytest.mark.slow
def test_results_of_other_models_are_refused(made: Path) -> None:
    path = made / "smoke" / "results.jsonl"
    lines = path.read_text()
    path.write_text(lines.replace(of(made, "model", model="base")[0]["fingerprint"], "0" * 12))
    with pytest.raises(SystemExit, match=r"error: .*another model base; remove it"):
        run_smoke(made)
    path.write_text(lines)


def test_without_ctranslate2_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(ctranslate2, "import_module", missing)
    with pytest.raises(OutpaceError, match=r"need CTranslate2: pip install"):
        ctranslate2.converted(tmp_path)


def test_bleu_is_that_of_sacrebleu() -> None:
    outputs = ["das ist ein Haus am See", "der Hund bellt laut und lange", "ja", ""]
    references = ["das ist das Haus am See", "der Hund bellt laut", "nein", "Klick"]
    counts = np.array([bleu.counts(*pair) for pair in zip(outputs, references, strict=True)])
    assert bleu.bleu(counts) == pytest.approx(sacrebleu.corpus_bleu(outputs, [references]).score)
    others = [text.replace("Haus", "Hof") for text in outputs]
    worse = np.array([bleu.counts(*pair) for pair in zip(others, references, strict=True)])
    middle, low, high = bleu.difference(counts, worse)
    assert middle == pytest.approx(bleu.bleu(counts) - bleu.bleu(worse))
    assert low <= middle <= high and high > 0
    assert bleu.difference(counts, counts) == (0, 0, 0)
