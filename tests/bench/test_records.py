"""Prompt files, record files and tables, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from outpace.bench.prompts import BUILTIN, Prompt, read_prompts
from outpace.bench.records import RecordFile, read_records
from outpace.bench.report import format_report, summarise
from outpace.core.errors import OutpaceError


def record(**changed: Any) -> dict[str, Any]:
    return {
        "category": "qa", "draft": "none", "prompt_id": "1", "model": "m", "completion_tokens": 11,
        "tokens_per_s": 10.0, "target_calls": 10, "mean_accepted_length": 1.0, "identical_to_plain": True,
    } | changed  # fmt: skip


def test_text_files_hold_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("first\n\n  second \n", encoding="utf-8")
    assert read_prompts(path) == [Prompt("1", "text", "first"), Prompt("3", "text", "second")]


def test_limit_counts_per_category(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        "".join(json.dumps({"category": c, "turns": [c * n]}) + "\n" for n in (1, 2, 3) for c in "ab")
    )
    assert [p.text for p in read_prompts(path, limit=2)] == ["a", "b", "aa", "bb"]
    with pytest.raises(OutpaceError, match="at least 1"):
        read_prompts(path, limit=0)


def test_the_set_that_comes_with_the_package() -> None:
    prompts = read_prompts(BUILTIN)
    assert len({prompt.category for prompt in prompts}) >= 4
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"category": 3, "turns": ["x"]}', '{"category": "a", "turns": [1]}']
)
def test_malformed_prompt_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"category": "a", "turns": ["x"]}\n' + line + "\n")
    with pytest.raises(OutpaceError, match="line 2"):
        read_prompts(path)


def test_overall_speed_weighs_by_time() -> None:
    # 10 tokens in 1 s and 30 in 1 s are 40 in 2 s; the first token of each belongs to the prompt.
    rows = summarise(
        [
            record(),
            record(category="code", completion_tokens=31, tokens_per_s=30.0, target_calls=30),
            record(
                draft="d",
                tokens_per_s=40.0,
                target_calls=2,
                mean_accepted_length=5.0,
                identical_to_plain=False,
            ),
        ]
    )
    assert [(row.category, row.draft) for row in rows] == [
        ("qa", "none"), ("qa", "d"), ("code", "none"), ("overall", "none"), ("overall", "d")
    ]  # fmt: skip
    overall, drafted = rows[3:]
    assert overall.tokens_per_s == pytest.approx(20.0)
    assert drafted.ratio == pytest.approx(2.0)
    assert (overall.identical, drafted.identical) == (True, False)
    assert drafted.mean_accepted_length == 5.0


def test_single_token_answers_have_no_speed() -> None:
    (row, _) = summarise([record(completion_tokens=1, tokens_per_s=0.0, target_calls=0)])
    assert (row.tokens_per_s, row.ratio) == (0.0, None)
    assert "-" in format_report([row])


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(record()) + "\n" + '{"categ')
    with RecordFile(path) as file:
        assert file.find(record()) is not None and file.find(record(prompt_id="2")) is None
        file.append(record(prompt_id="2"))
    assert [item["prompt_id"] for item in read_records(path)] == ["1", "2"]


def test_a_damaged_record_file_is_refused_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("this is\nsomething else\n")
    with pytest.raises(OutpaceError, match="line 1"), RecordFile(path):
        pass
    assert path.read_text() == "this is\nsomething else\n"
