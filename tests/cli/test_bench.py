"""`outpace bench`: the table, the records, and going on where a run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from outpace.core.errors import OutpaceError
from tests.cli.conftest import FakeModel, Outcome

Run = Callable[..., Outcome]


def spec_bench(path: Path, *items: tuple[int, str, str]) -> str:
    lines = [
        json.dumps({"question_id": i, "category": c, "turns": [t, "a second turn"]}) for i, c, t in items
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


PLAIN = ["10.0", "1.00", "1.00", "0.0", "0.0", "80.00", "identical", "yes"]
DRAFTED = ["20.0", "2.00", "2.00", "3.0", "20.0", "80.00", "identical", "yes"]


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
        "category", "method", "prompts", "tokens/s", "ratio", "accepted", "drafted", "draft %", "ms/call",
        "exactness", "identical",
    ]  # fmt: skip
    assert [row[:3] for row in rows] == [
        [category, method, prompts]
        for category, prompts in (("qa", "2"), ("code", "1"), ("overall", "3"))
        for method in ("none", "ngram", "ngram:length=3")
    ]
    for row in rows:
        plain = row[1] == "none"
        assert row[3:] == (PLAIN if plain else DRAFTED)


def test_methods_differ_by_tree_and_rule(run: Run, model: FakeModel, tmp_path: Path) -> None:
    model.wrong = True
    prompts = spec_bench(tmp_path / "p.jsonl", (1, "qa", "a"), (2, "code", "b"))
    out = tmp_path / "out.jsonl"
    texts = [
        "shaped:model=a b.gguf tree=chain:length=2 rule=fair", "shaped:model=a b.gguf", "ngram rule=lucky",
    ]  # fmt: skip
    drafts = [word for text in texts for word in ("--draft", text)]
    command = ("bench", "--prompts", prompts, "--json", str(out), *drafts, "--rule", "lucky", "--summary")
    outcome = run(*command)
    assert outcome.status == 0 and outcome.err == "", "no identical method, so none that fails"
    assert model.made == [
        ("none", None), ("shaped:model=a b.gguf", "chain:length=2"), ("shaped:model=a b.gguf", None),
        ("ngram", None),
    ]  # fmt: skip
    header, _, *rows = (cells(line) for line in outcome.out.splitlines())
    assert header[:5] == ["method", "worst category", "worst", "prompts", "tokens/s"]
    assert [(row[0], row[2], row[-2], row[-1]) for row in rows] == [
        ("none", "-", "identical", "yes"),
        (texts[0], "2.00", "distribution", "-"),
        ("shaped:model=a b.gguf rule=lucky", "2.00", "lossy", "0 %"),
        ("ngram rule=lucky", "2.00", "lossy", "0 %"),
    ]
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["draft"], r["tree"], r["rule"]) for r in records[:4]] == [
        ("none", None, "match"), ("shaped:model=a b.gguf", "chain:length=2", "fair"),
        ("shaped:model=a b.gguf", None, "lucky"), ("ngram", None, "lucky"),
    ]  # fmt: skip
    model.calls.clear()
    assert run(*command) == outcome and not model.calls
    run(*command, "--draft", "ngram")  # takes the rule that --rule names, so it is measured already
    assert not model.calls
    run(*command, "--draft", "ngram rule=match")
    assert {request["rule"] for _, request in model.calls} == {"match"}
    assert model.made[-2:] == [("ngram", None)] * 2, (
        "one for each rule: neither learns from the other's answers"
    )


def test_parts_that_do_not_go_together_are_refused_before_anything_runs(
    run: Run, model: FakeModel, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    outcome = run("bench", "--json", str(out), "--draft", "none", "--draft", "none rule=fair:strict=true")
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and "needs the law" in outcome.err
    assert not model.calls and out.read_text() == ""


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
    assert [request["draft"] for prompt, request in model.calls if prompt == "b"] == ["ngram"]
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


def test_prompts_of_a_category_side_by_side(run: Run, model: FakeModel, tmp_path: Path) -> None:
    items = [(1, "qa", "a"), (2, "qa", "b"), (3, "qa", "c"), (4, "code", "d"), (5, "code", "endless")]
    prompts, out = spec_bench(tmp_path / "p.jsonl", *items), tmp_path / "out.jsonl"
    command = ("bench", "--prompts", prompts, "--rows", "2", "--json", str(out))
    outcome = run(*command)
    assert model.together == [2, 2, 1, 1, 1, 1], "each method on two, on the third, and on the one of code"
    lines = out.read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines]
    assert [(r["prompt_id"], r["draft"]) for r in records[:4]] == [
        ("1", "none"), ("2", "none"), ("1", "ngram"), ("2", "ngram")
    ]  # fmt: skip
    assert {r["rows"] for r in records} == {2} and len(records) == 8
    out.write_text("".join(lines[:3]))  # killed between two that belong together
    model.together.clear()
    assert run(*command) == outcome
    assert model.together == [2, 1, 1, 1, 1] and sorted(out.read_text().splitlines(keepends=True)) == sorted(
        lines
    )
    run(*command[:3], "--json", str(out), "--rows", "1")
    assert len(out.read_text().splitlines()) == 16, "another number of rows is another measurement"


def test_rounds_measure_everything_again_with_drafters_that_have_seen_nothing(
    run: Run, model: FakeModel, tmp_path: Path
) -> None:
    prompts, out = spec_bench(tmp_path / "p.jsonl", (1, "qa", "a"), (2, "qa", "b")), tmp_path / "out.jsonl"
    command = ("bench", "--prompts", prompts, "--json", str(out))
    once = run(*command)
    assert len(model.made) == 2
    outcome = run(*command, "--repeats", "3")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["round"], r["prompt_id"], r["draft"]) for r in records] == [
        (number, prompt, draft) for number in range(3) for prompt in "12" for draft in ("none", "ngram")
    ]  # fmt: skip
    assert len(model.made) == 2 + 3 * 2, "two of each round"
    header, _, *rows = (cells(line) for line in outcome.out.splitlines())
    at = header.index("of rounds")
    assert [row[:5] for row in rows] == [cells(line)[:5] for line in once.out.splitlines()[2:]]
    assert [row[at] for row in rows] == ["1.00 to 1.00", "2.00 to 2.00"] * 2
    model.calls.clear()
    assert run(*command, "--repeats", "3") == outcome and not model.calls


def test_all_drafts_have_no_tree(run: Run, model: FakeModel) -> None:
    outcome = run("bench", "--all", "--tree", "chain")
    assert outcome.status == 2 and outcome.err.count("\n") == 1 and "--tree with --draft alone" in outcome.err
    assert not model.calls


def test_repeats_are_a_number_of_them(run: Run, model: FakeModel) -> None:
    for repeats in ("0", "1001"):
        outcome = run("bench", "--repeats", repeats)
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and "from 1 to 1000" in outcome.err
    assert not model.calls


def test_every_draft_at_hand_beside_auto(
    run: Run, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads and tables that are missing are left out."""

    def new_drafter(draft: str, *, tree: str | None = None) -> Any:
        if "backoff" in draft or "heads" in draft:
            raise OutpaceError("there is none")
        return real(draft, tree=tree)

    real = model.new_drafter
    monkeypatch.setattr(model, "new_drafter", new_drafter)
    prompts = spec_bench(tmp_path / "p.jsonl", (1, "qa", "a"), (2, "code", "b"))
    outcome = run("bench", "--prompts", prompts, "--all", "--draft", "copy", "--summary")
    table, best = outcome.out.split("\n\n")
    methods = ["none", "copy", "auto", "ngram", "mix:drafts=ngram+suffix", "suffix", "blockwise"]
    assert outcome.status == 0 and [cells(line)[0] for line in table.splitlines()[2:]] == methods
    header, _, *lines = (cells(line) for line in best.splitlines())
    assert header == ["category", "best fixed draft", "ratio", "auto", "of the best"]
    assert lines == [[category, "copy", "2.00", "2.00", "1.00"] for category in ("qa", "code", "overall")]


def test_rows_are_a_number_of_them(run: Run, model: FakeModel) -> None:
    for rows in ("0", "257"):
        outcome = run("bench", "--rows", rows)
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and "from 1 to 256" in outcome.err
    assert not model.calls


def test_bad_files_are_one_line(run: Run, model: FakeModel, tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl").write_text('{"category": "qa", "turns": []}\n')
    (tmp_path / "empty.txt").write_text("\n")
    for name, said in (("none.txt", "No such file"), ("broken.jsonl", "line 1"), ("empty.txt", "no prompts")):
        outcome = run("bench", "--prompts", str(tmp_path / name))
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and said in outcome.err
    (tmp_path / "p.txt").write_text("one\n")
    outcome = run("bench", "--prompts", str(tmp_path / "p.txt"), "--json", str(tmp_path / "no" / "out.jsonl"))
    assert outcome.status == 2 and "out.jsonl" in outcome.err
