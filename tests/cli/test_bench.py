"""`outpace bench`: the table, the records, and going on where a run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import FakeModel, Outcome

Run = Callable[..., Outcome]


def spec_bench(path: Path, *items: tuple[int, str, str]) -> str:
    lines = [
        json.dumps({"question_id": i, "category": c, "turns": [t, "a second turn"]}) for i, c, t in items
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_table_per_category_and_overall(run: Run, model: FakeModel, tmp_path: Path) -> None:
    prompts = spec_bench(
        tmp_path / "p.jsonl", (1, "qa", "a"), (2, "qa", "b"), (3, "qa", "c"), (4, "code", "d")
    )
    outcome = run(
        "bench", "--prompts", prompts, "--draft", "ngram", "--draft", "ngram:length=3", "--limit", "2"
    )
    assert outcome.status == 0 and outcome.err == ""
    header, _, *rows = (cells(line) for line in outcome.out.splitlines())
    assert header == [
        "category", "draft", "prompts", "tokens/s", "ratio to plain", "mean accepted length", "identical"
    ]  # fmt: skip
    assert rows == [
        ["qa", "none", "2", "10.0", "1.00", "1.00", "yes"],
        ["qa", "ngram", "2", "20.0", "2.00", "2.00", "yes"],
        ["qa", "ngram:length=3", "2", "20.0", "2.00", "2.00", "yes"],
        ["code", "none", "1", "10.0", "1.00", "1.00", "yes"],
        ["code", "ngram", "1", "20.0", "2.00", "2.00", "yes"],
        ["code", "ngram:length=3", "1", "20.0", "2.00", "2.00", "yes"],
        ["overall", "none", "3", "10.0", "1.00", "1.00", "yes"],
        ["overall", "ngram", "3", "20.0", "2.00", "2.00", "yes"],
        ["overall", "ngram:length=3", "3", "20.0", "2.00", "2.00", "yes"],
    ]


def test_one_record_per_prompt_and_method(run: Run, model: FakeModel, tmp_path: Path) -> None:
    prompts = spec_bench(tmp_path / "p.jsonl", (11, "qa", "a"), (12, "code", "b"))
    out = tmp_path / "out.jsonl"
    run("bench", "--prompts", prompts, "--json", str(out), "--temperature", "0.8", "--seed", "1")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["prompt_id"], r["category"], r["draft"]) for r in records] == [
        ("11", "qa", "none"), ("11", "qa", "ngram"), ("12", "code", "none"), ("12", "code", "ngram")
    ]  # fmt: skip
    assert all(r["identical_to_plain"] is True and r["sampling"]["temperature"] == 0.8 for r in records)


def test_a_second_run_goes_on_where_the_first_stopped(run: Run, model: FakeModel, tmp_path: Path) -> None:
    prompts = spec_bench(tmp_path / "p.jsonl", (1, "qa", "a"), (2, "qa", "b"))
    out = tmp_path / "out.jsonl"
    whole = run("bench", "--prompts", prompts, "--json", str(out))
    lines = out.read_text().splitlines(keepends=True)
    out.write_text("".join(lines[:3]) + lines[3][:40])  # killed while it wrote the last record
    model.calls.clear()
    again = run("bench", "--prompts", prompts, "--json", str(out))
    assert again == whole
    assert [request["draft"] for prompt, request in model.calls if prompt == "b"] == ["none", "ngram"]
    assert not [prompt for prompt, _ in model.calls if prompt == "a"]
    assert out.read_text().splitlines(keepends=True) == lines
    run("bench", "--prompts", prompts, "--json", str(out), "--max-tokens", "9")
    assert len(out.read_text().splitlines()) == 8, "another length is another measurement"


def test_a_difference_is_named_and_fails(run: Run, model: FakeModel, tmp_path: Path) -> None:
    model.wrong = True
    outcome = run("bench", "--prompts", spec_bench(tmp_path / "p.jsonl", (1, "qa", "a")))
    assert outcome.status == 1
    assert cells(outcome.out.splitlines()[-1])[-1] == "no"


def test_prompts_beyond_the_context_are_named(run: Run, model: FakeModel, tmp_path: Path) -> None:
    prompts = spec_bench(tmp_path / "p.jsonl", (1, "qa", "a"), (2, "qa", "endless"))
    outcome = run("bench", "--prompts", prompts)
    assert outcome.status == 0
    assert cells(outcome.out.splitlines()[2])[2] == "1"
    assert outcome.out.endswith("left out, longer than the context: 2\n")


def test_bad_files_are_one_line(run: Run, model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"category": "qa", "turns": []}\n')
    (tmp_path / "empty.txt").write_text("\n")
    for name, said in (("none.txt", "No such file"), ("broken.jsonl", "line 1"), ("empty.txt", "no prompts")):
        outcome = run("bench", "--prompts", str(tmp_path / name))
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and said in outcome.err
    (tmp_path / "p.txt").write_text("one\n")
    outcome = run("bench", "--prompts", str(tmp_path / "p.txt"), "--json", str(tmp_path / "no" / "out.jsonl"))
    assert outcome.status == 2 and "out.jsonl" in outcome.err
