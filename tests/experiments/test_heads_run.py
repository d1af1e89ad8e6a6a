"""The experiment on heads: the whole smoke run on a tiny model, again, and what its records come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from experiments.heads import run
from experiments.heads.evaluate import CHAIN, LEARNT, NGRAM, OWN, PLAIN, TABLE, TREE
from experiments.heads.scales import SCALES
from experiments.heads.summary import long_blocks, rows
from experiments.heads.trainings import HEADS, KINDS, STATES
from experiments.kit.results import Results
from outpace.train.examples import FEATURES
from outpace.train.self_text import OWN_TEXT
from tests.experiment_runs import check_report, state
from tests.fake_models import write_gguf

SMOKE = SCALES["smoke"]
SHAPES = ((CHAIN, ""), (TREE, ""), (LEARNT, ""), (OWN, ""), (OWN, NGRAM), (OWN, TABLE))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a whole run; random models seldom end a message, so text is given."""
    work = tmp_path_factory.mktemp("heads")
    write_gguf(work / "tiny.gguf", "llama")
    (work / "smoke").mkdir()
    draws = np.random.default_rng(0)
    texts = [
        {"prompt_ids": draws.integers(3, 40, 6).tolist(), "token_ids": draws.integers(3, 40, 60).tolist()}
        for _ in range(8)
    ]
    (work / "smoke" / OWN_TEXT).write_text("".join(json.dumps(text) + "\n" for text in texts))
    (work / "asked.txt").write_text("what is in the box\n")
    again(work)
    return work


def again(work: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(work / "cache"))
        where = [
            "--work",
            str(work),
            "--model",
            str(work / "tiny.gguf"),
            "--prompts",
            str(work / "asked.txt"),
        ]
        run.main(["--scale", "smoke", "--threads", "1", *where])


def test_every_way_writes_the_text_of_plain_decoding(made: Path) -> None:
    results = Results(made / "smoke" / "results.jsonl")
    found = {row.way: row for row in rows(results)}
    drafted = {(kind.name, *shape) for kind in KINDS for shape in SHAPES}
    assert {*found} == {PLAIN, ("none", OWN, NGRAM), ("none", OWN, TABLE), *drafted}
    assert all(row.same == row.texts == 1 for row in found.values())
    assert found[PLAIN].block == 1 and found[PLAIN].drafted == 0
    for kind in KINDS:
        assert found[kind.name, CHAIN, ""].drafted > 0
        assert len(found[kind.name, CHAIN, ""].depths) <= SMOKE.ahead
    assert {one["name"] for one in results.of("heads")} == {kind.name for kind in KINDS}
    assert all(one["steps"] == SMOKE.steps and one["bytes"] > 0 for one in results.of("heads"))


def test_long_answers_go_on_behind_their_ends(made: Path) -> None:
    records = Results(made / "smoke" / "results.jsonl").of("long")
    assert {record["way"][0] for record in records} == {kind.name for kind in KINDS}
    for record in records:
        assert sum(tokens for tokens, _ in record["windows"]) == SMOKE.long
        assert all(calls <= tokens for tokens, calls in record["windows"])


def test_kinds_that_read_the_same_states_share_them(made: Path) -> None:
    folder = made / "smoke"
    found = {(folder / HEADS / kind.name / FEATURES).resolve() for kind in KINDS}
    assert found == {(folder / STATES / name).resolve() for name in ("final", "thirds", "whole texts")}


def test_a_report_has_every_kind_and_a_second_run_changes_nothing(made: Path) -> None:
    report = check_report(made / "smoke", "depths.png", "long.png")
    for kind in KINDS:
        assert f"| `{kind.name}` | chain |" in report and f"| `{kind.name}` | learnt |" in report
    before = state(made)
    again(made)
    assert state(made) == before


def text(way: tuple[str, str, str], number: int, **values: Any) -> dict[str, Any]:
    record = {
        "kind": "text", "number": number, "category": "writing" if number else "math", "way": [*way],
        "tokens": 8, "calls": 4, "drafted": 12, "tried": [4, 2], "kept": [3, 1], "seconds": 2.0,
        "draft_s": 0.5, "same": True,
    }  # fmt: skip
    return record | values


def test_rows_are_sums_over_texts_and_medians_of_speeds(tmp_path: Path) -> None:
    way = ("medusa", CHAIN, "")
    results = Results(tmp_path / "results.jsonl")
    for number in range(2):
        results.add(text(PLAIN, number, calls=8, drafted=0, tried=[], kept=[], seconds=4.0, draft_s=0.0))
    results.add(text(way, 0), text(way, 1, calls=2, tried=[2], kept=[1], seconds=8.0, same=False))
    (plain, row) = rows(results)
    assert plain.block == 1 and row.way == way and row.same == 1
    assert row.block == 16 / 6 and row.open_block == 4 and row.drafted == 24 / 6
    assert row.depths == [4 / 6, 1 / 2] and row.draft_share == pytest.approx(0.1)
    assert sorted(row.speeds) == [0.5, 2.0] and row.slowest == ("writing", 0.5)


def test_windows_of_long_answers_are_summed(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    way = ["eagle", CHAIN, ""]
    results.add({"kind": "long", "number": 0, "way": way, "windows": [[8, 4], [6, 2]]})
    results.add({"kind": "long", "number": 1, "way": way, "windows": [[4, 2]]})
    assert long_blocks(results) == {"eagle": [2.0, 3.0]}
