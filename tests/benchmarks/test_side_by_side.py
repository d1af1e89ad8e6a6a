"""Engines in turns and the tables of it, with engines that only pretend to decode."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import side_by_side, turns
from benchmarks.engines.peer import CannotOpen
from benchmarks.speed_tables import call_table, decode_table, lead_table, prompt_table
from benchmarks.turns import CALLS_PER_TURN, Measured, Plan, Task, measure
from tests.fake_models import write_gguf


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PAUSE_S", 0.0)


class Fake:
    """Answers at once, notes what it was asked, and ends its answers after `most` tokens."""

    version = "1"

    def __init__(self, name: str, methods: Sequence[str], log: list[Any], most: int = 99) -> None:
        self.name, self.methods, self._log, self._most = name, methods, log, most

    def decode(self, text: str, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        self._log.append((self.name, method, text, max_tokens))
        return {"token_ids": list(range(min(max_tokens, self._most))), "prompt_s": 1.0, "decode_s": 2.0}

    def prompt(self, tokens: Sequence[int]) -> float:
        self._log.append((self.name, "prompt", tuple(tokens)))
        return 0.25

    def call(self, cached: Sequence[int], block: Sequence[int], calls: int) -> list[float] | None:
        if self.name == "blind":
            return None
        self._log.append((self.name, "call", len(cached), len(block)))
        return [9.0, *[0.001 * len(block)] * (calls - 1)]


def test_engines_take_turns() -> None:
    log: list[Any] = []
    engines = [Fake("outpace", ["plain", "x"], log, most=5), Fake("blind", ["plain"], log)]
    tasks = [Task("1", "one", [1]), Task("2", "two", [2, 2])]
    methods = {engine.name: engine.methods for engine in engines}
    plan = Plan(tasks, max_tokens=8, rounds=2, sizes=[1, 4], context=16, prompt_tokens=3)
    measured = measure(engines, methods, plan)
    warm = [("outpace", "plain", "one", 2), ("outpace", "x", "one", 2), ("blind", "plain", "one", 2)]
    assert log[:3] == warm
    half = (len(log) - 3) // 2
    for turn in (log[3 : 3 + half], log[3 + half :]):
        assert turn[:2] == [("outpace", "call", 16, 1), ("outpace", "call", 16, 4)]
        assert [entry[:2] for entry in turn[2:4]] == [("outpace", "prompt"), ("blind", "prompt")]
        assert turn[2][2] == turn[3][2] and len(turn[2][2]) == 3
        answers = [
            [("outpace", "plain", text, 8), ("outpace", "x", text, 5), ("blind", "plain", text, 5)]
            for text in ("one", "two")
        ]
        assert turn[4:] == [entry for group in answers for entry in group]
    assert log[5] != log[5 + half]  # a new text in each round
    assert measured.calls == {"outpace": {size: [0.001 * size] * 2 * (CALLS_PER_TURN - 1) for size in (1, 4)}}
    assert measured.prompts == {"outpace": [0.25, 0.25], "blind": [0.25, 0.25]}
    assert [len(repeats) for repeats in measured.answers["blind", "plain"].values()] == [2, 2]


def answers(seconds: Sequence[float], ids: Sequence[int]) -> list[dict[str, Any]]:
    return [{"token_ids": list(ids), "prompt_s": 1.0, "decode_s": one} for one in seconds]


MEASURED = Measured(
    answers={
        ("outpace", "plain"): {"1": answers([1.0, 3.0, 2.0], range(11)), "2": answers([1.0] * 3, range(6))},
        ("outpace", "ngram"): {"1": answers([0.5] * 3, range(11)), "2": answers([0.25] * 3, range(6))},
        ("outpace", "mix"): {"1": answers([0.4, 4.0, 4.0], range(11)), "2": answers([0.1] * 3, range(6))},
        ("ik", "plain"): {"1": answers([2.0] * 3, range(11)), "2": answers([2.0] * 3, range(6))},
        ("ik", "lookup"): {"1": answers([1.0] * 3, range(11)), "2": answers([2.0] * 3, [0, 9, 9, 9, 9, 9])},
        ("other", "plain"): {"1": answers([5.0] * 3, range(11)), "2": answers([5.0] * 3, range(6))},
    },
    calls={
        "outpace": {1: [0.002, 0.004, 0.003], 8: [0.01] * 3},
        "ik": {1: [0.003] * 3, 8: [0.03, 0.02, 0.04]},
    },
    prompts={"outpace": [0.1, 0.2, 0.3], "ik": [0.4, 0.4, 0.6]},
)


def cells(table: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_the_decoding_table() -> None:
    header, plain, ngram, mix, *others = cells(decode_table(MEASURED, "ik"))
    assert header[4] == "speed to ik plain"
    assert plain == ["outpace", "plain", "7.5", "5.0", "2.00", "1.33", "2/2"]
    assert ngram == ["outpace", "ngram", "20.0", "20.0", "5.33", "5.33", "2/2"]
    assert mix == ["outpace", "mix", "30.0", "3.7", "8.00", "0.98", "2/2"]
    assert [row[1:3] + row[6:] for row in others] == [
        ["plain", "3.8", "2/2"],
        ["lookup", "5.0", "1/2"],
        ["plain", "1.5", "2/2"],
    ]


def test_the_tables_of_calls_and_prompts() -> None:
    assert cells(call_table(MEASURED)) == [
        ["ms of a call", "M=1", "M=8"],
        ["outpace", "2.0 (3.0)", "10.0 (10.0)"],
        ["ik", "3.0 (3.0)", "20.0 (30.0)"],
    ]
    assert cells(prompt_table(MEASURED, 512, "ik"))[1:] == [
        ["outpace", "100.0", "200.0", "5120", "4.00", "2.00"],
        ["ik", "400.0", "400.0", "1280", "1.00", "1.00"],
    ]


def test_the_lead() -> None:
    assert cells(lead_table(MEASURED, "outpace", "ik")) == [
        ["speed of outpace", "to", "smallest", "median"],
        ["plain decoding", "ik", "2.00", "1.33"],
        ["a call of 8", "ik", "2.00", "3.00"],
        ["a prompt", "ik", "4.00", "2.00"],
        ["best drafted decoding", "mix against ik lookup / ngram against ik lookup", "6.00", "4.00"],
    ]
    # A peer that can not be given blocks, no prompts, and no drafting beside it: those lines are left out.
    assert [row[0] for row in cells(lead_table(_without("ik"), "outpace", "other"))[1:]] == ["plain decoding"]


def _without(engine: str) -> Measured:
    kept = {key: value for key, value in MEASURED.answers.items() if key[0] != engine}
    return Measured(answers=kept, calls={"outpace": MEASURED.calls["outpace"]})


def test_a_whole_run_on_a_tiny_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, records = tmp_path / "tiny.gguf", tmp_path / "runs.jsonl"
    write_gguf(model, "llama", tensor_type="Q4_1")
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "prompts.txt").write_text("once upon a time\n")
    log: list[Any] = []

    @contextmanager
    def open_fake(name: str, path: Path, **options: Any) -> Iterator[Fake]:
        assert path == model and options["threads"] == 1 and options["context"] > 64
        if name == "blind":
            raise CannotOpen("blind ended with status 1: what is Q4_1?")
        yield Fake(name, ["plain", "lookup", "other"], log)

    monkeypatch.setattr(side_by_side, "open_peer", open_fake)
    command = f"side_by_side --model {model} --prompts {tmp_path}/prompts.txt --threads 1 --max-tokens 6"
    command += f" --rounds 2 --sizes 1 2 --context 4 --prompt-size 8 --method lookup --json {records}"
    monkeypatch.setattr(
        sys, "argv", [*command.split(), "--engine", "a", "--engine", "blind", "--engine", "b"]
    )
    side_by_side.main()
    printed, said = capsys.readouterr()
    assert "left out: blind ended with status 1: what is Q4_1?" in said
    assert "speed to a plain" in printed and "best drafted decoding" in printed
    assert {entry[1] for entry in log} == {"plain", "lookup", "call", "prompt"}
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    assert {(line["engine"], line["kind"]) for line in lines} == {
        (engine, kind) for engine in ("outpace", "a", "b") for kind in ("answer", "call", "prompt")
    }
    ours = [line for line in lines if line["engine"] == "outpace" and line["kind"] == "answer"]
    assert [(line["method"], line["round"]) for line in ours] == [
        ("plain", 0), ("plain", 1), ("ngram", 0), ("ngram", 1),
    ]  # fmt: skip
    assert len({tuple(line["token_ids"]) for line in ours}) == 1
    assert all(line["file"] == "tiny.gguf" and line["threads"] == 1 for line in lines)
    monkeypatch.setattr(sys, "argv", f"{command} --engine blind --engine a".split())
    with pytest.raises(SystemExit, match="error: blind ended with status 1"):  # nothing to compare with
        side_by_side.main()
