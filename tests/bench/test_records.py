"""Prompt files, record files and tables, without a model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from outpace.bench.prompts import BUILTIN, Prompt, read_prompts
from outpace.bench.records import RecordFile, read_records
from outpace.bench.report import (
    format_best,
    format_depths,
    format_report,
    format_summary,
    markdown_table,
    summarise,
)
from outpace.core.errors import OutpaceError
from outpace.models.method import Method
from tests.special_files import SPECIAL


def record(**changed: Any) -> dict[str, Any]:
    return {
        "category": "qa", "draft": "none", "tree": None, "rule": "match", "prompt_id": "1", "model": "m",
        "completion_tokens": 11, "tokens_per_s": 10.0, "target_calls": 10, "mean_accepted_length": 1.0,
        "num_passes": 0, "rows": 1, "round": 0, "num_drafted": 0, "num_tried_at": [], "num_kept_at": [],
        "wall_s": 3.0, "prompt_s": 2.0, "draft_s": 0.0, "score_s": 0.9,
        "exactness": "identical", "numerics": "bitwise", "identical_to_plain": True, "token_ids": [1],
    } | changed  # fmt: skip


def test_text_files_hold_one_prompt_a_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("first\n\n  second \n", encoding="utf-8")
    assert read_prompts(path) == [Prompt("1", "text", "first"), Prompt("3", "text", "second")]


@pytest.mark.parametrize("name", [b"\xff.gguf", b"caf\xe9/m.gguf", "\u65e5\u672c.gguf".encode()])
def test_records_of_a_model_of_any_name_are_read_again(tmp_path: Path, name: bytes) -> None:
    model = os.fsdecode(name)
    with RecordFile(tmp_path / "out.jsonl") as file:
        file.append(record(model=model))
    assert [one["model"] for one in read_records(tmp_path / "out.jsonl")] == [model]


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b"])
def test_a_line_ends_where_json_says_so(tmp_path: Path, character: str) -> None:
    """Not at other characters that end lines elsewhere, which texts may have."""
    prompt = {"category": "a", "turns": [f"one{character}text"]}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(prompt, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [one.text for one in read_prompts(path)] == prompt["turns"]
    with RecordFile(tmp_path / "out.jsonl") as file:
        file.append(record(text=f"one{character}text"))
    assert [one["text"] for one in read_records(tmp_path / "out.jsonl")] == [f"one{character}text"]


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
    "line",
    [
        "{",
        "[]",
        '{"category": 3, "turns": ["x"]}',
        '{"category": "a", "turns": [1]}',
        '{"category": "a", "turns": ["\\ud800"]}',
        '{"category": "a", "turns": ' + "[" * 10**5,
        '{"category": "a", "turns": ["x"], "question_id": ' + "9" * 5000 + "}",
    ],
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
                num_drafted=30,
                draft_s=0.25,
                identical_to_plain=False,
            ),
        ]
    )
    assert [(row.category, row.method.draft) for row in rows] == [
        ("qa", "none"), ("qa", "d"), ("code", "none"), ("overall", "none"), ("overall", "d")
    ]  # fmt: skip
    overall, drafted = rows[3:]
    assert overall.tokens_per_s == pytest.approx(20.0)
    assert drafted.ratio == pytest.approx(2.0)
    assert (overall.identical_share, drafted.identical_share) == (1.0, 0.0)
    assert drafted.mean_accepted_length == 5.0 and drafted.drafted_per_call == 15.0
    assert drafted.draft_share == pytest.approx(0.25) and drafted.ms_per_call == pytest.approx(450.0)


def test_passes_stand_where_a_pipeline_has_run() -> None:
    """For each token after the first ones, over all prompts alike; nobody else has the column."""
    plain = [record(), record(category="code")]
    speed = [
        record(draft="speed", num_passes=15),  # of 10 tokens
        record(draft="speed", category="code", target_calls=20, mean_accepted_length=1.5, num_passes=25),
    ]
    rows = summarise([*plain, *speed])
    assert [row.passes_per_token for row in rows if row.method.draft == "none"] == [0.0] * 3
    per_token = {row.category: row.passes_per_token for row in rows if row.method.draft == "speed"}
    assert per_token == pytest.approx({"qa": 1.5, "code": 25 / 30, "overall": 1.0})
    for table, num_lines in ((format_report(rows), 6), (format_summary(rows), 2)):
        header, _, *lines = table.splitlines()
        at = header.split("|").index(" passes/token ")
        cells = [line.split("|")[at].strip() for line in lines]
        assert len(cells) == num_lines and cells.count("-") == num_lines // 2 and cells[-1] == "1.00"
    assert "passes" not in format_report(summarise(plain))


def test_how_often_drafts_are_right_by_depth() -> None:
    """Over all prompts, those with deeper drafts too; methods that draft nothing are left out."""
    rows = summarise(
        [
            record(),
            record(draft="d", num_tried_at=[10, 6], num_kept_at=[8, 3]),
            record(draft="d", prompt_id="2", num_tried_at=[10, 4, 1], num_kept_at=[4, 2, 1]),
            record(draft="shallow", num_tried_at=[4], num_kept_at=[0]),
        ]
    )
    assert {row.method.draft: row.kept_at for row in rows if row.category == "overall"} == {
        "none": [], "d": [0.6, 0.5, 1.0], "shallow": [0.0],
    }  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in format_depths(rows).splitlines()]
    assert lines[0][1:] == ["1", "2", "3"]
    assert lines[2:] == [["d", "0.60", "0.50", "1.00"], ["shallow", "0.00", "-", "-"]]
    assert [line.count("|") for line in format_depths(rows, most=2).splitlines()] == [4] * 4
    assert format_depths(summarise([record()])) == ""


def test_a_ratio_is_the_median_of_the_rounds_each_to_its_own_plain_decoding() -> None:
    """The machine was half as fast in the second round, in which one draft ran no more."""
    speeds = [
        ("none", 0, 10.0), ("a", 0, 12.0), ("b", 0, 15.0), ("none", 1, 5.0), ("b", 1, 9.0), ("none", 2, 10.0),
        ("b", 2, 40.0),
    ]  # fmt: skip
    rows = summarise(record(draft=draft, round=number, tokens_per_s=speed) for draft, number, speed in speeds)
    overall = {row.method.draft: row for row in rows if row.category == "overall"}
    assert {draft: row.ratio for draft, row in overall.items()} == pytest.approx(
        {"none": 1.0, "a": 1.2, "b": 1.8}
    )
    assert overall["b"].ratios == pytest.approx([1.5, 1.8, 4.0])
    assert {row.num_prompts for row in rows} == {1}, "the same one in all rounds"
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in format_report(rows).splitlines()]
    at = lines[0].index("of rounds")
    assert [line[at - 1 : at + 1] for line in lines[-3:]] == [
        ["1.00", "1.00 to 1.00"], ["1.20", "1.20 to 1.20"], ["1.80", "1.50 to 4.00"]
    ]  # fmt: skip
    assert "of rounds" not in format_report(summarise([record(), record(draft="a", tokens_per_s=12.0)]))


def test_auto_stands_beside_the_fixed_draft_that_is_fastest_in_each_category() -> None:
    speeds = {
        "qa": {"none": 10.0, "auto": 18.0, "a": 20.0, "b": 15.0},
        "code": {"none": 10.0, "auto": 12.0, "a": 9.0, "b": 8.0},
    }
    records = [
        record(category=category, draft=draft, tokens_per_s=speed)
        for category, by_draft in speeds.items()
        for draft, speed in by_draft.items()
    ]
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in format_best(summarise(records)).splitlines()
    ]
    assert lines[2:4] == [["qa", "a", "2.00", "1.80", "0.90"], ["code", "a", "0.90", "1.20", "1.33"]]
    assert lines[4][:2] == ["overall", "a"]
    for left_out in ({"auto"}, {"a", "b"}):
        assert format_best(summarise([one for one in records if one["draft"] not in left_out])) == ""


def test_tokens_that_the_prompts_call_gave_count_for_no_speed() -> None:
    opened = record(tokens_per_s=8.0, target_calls=4, mean_accepted_length=2.0)  # 11 tokens, 3 of them first
    (row, _) = summarise([opened, record(prompt_id="2")])
    assert row.tokens_per_s == pytest.approx((8 + 10) / (1 + 1))


def test_single_token_answers_have_no_speed() -> None:
    (row, _) = summarise([record(completion_tokens=1, tokens_per_s=0.0, target_calls=0)])
    assert (row.tokens_per_s, row.ratio) == (0.0, None)
    assert "-" in format_report([row])


def test_what_identical_says_depends_on_the_promise() -> None:
    same, other = {"identical_to_plain": True}, {"identical_to_plain": False, "prompt_id": "2"}
    said = {}
    for promise in ("identical", "distribution", "lossy"):
        rows = summarise([record(exactness=promise, **kind) for kind in (same, other)])
        said[promise] = format_report(rows).splitlines()[-1].split("|")[-2].strip()
    assert said == {"identical": "no", "distribution": "-", "lossy": "50 %"}
    assert "| identical |       yes |" in format_report(summarise([record()]))


def test_the_summary_names_the_worst_category() -> None:
    drafted = {"draft": "d", "rule": "fair"}
    rows = summarise(
        [
            record(), record(category="code"), record(category="chat"),
            record(tokens_per_s=12.0, **drafted), record(category="code", tokens_per_s=8.0, **drafted),
            record(category="chat", tokens_per_s=0.0, **drafted),
        ]
    )  # fmt: skip
    assert {row.method for row in rows} == {Method("none"), Method("d", None, "fair")}
    header, _, plain, other = format_summary(rows).splitlines()
    assert len({len(line) for line in (header, plain, other)}) == 1
    assert [cell.strip() for cell in other.split("|")][1:6] == ["d rule=fair", "chat", "0.00", "3", "9.6"]


def test_records_of_before_trees_and_rules_are_read_and_found(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    old = {
        key: value
        for key, value in record(draft="ngram").items()
        if key not in ("tree", "rule", "num_passes", "rows", "round")
    }
    path.write_text(json.dumps(old) + "\n")
    assert list(read_records(path)) == [record(draft="ngram")]
    with RecordFile(path) as file:
        found = file.find(record(draft="ngram"))
        assert found is not None and summarise([found])[0].method == Method("ngram")
        assert file.find(record(draft="ngram", rule="lucky")) is None
        assert file.find(record(draft="ngram", tree="chain")) is None


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"tokens_per_s": None}, "tokens_per_s"),
        ({"target_calls": "10"}, "target_calls"),
        ({"wall_s": 10**400}, "wall_s"),
        ({"draft_s": float("nan")}, "draft_s"),
        ({"score_s": True}, "score_s"),
        ({"exactness": "somewhat"}, "exactness"),
        ({"exactness": ["identical"]}, "exactness"),
        ({"numerics": "nearly"}, "numerics"),
        ({"identical_to_plain": None}, "identical_to_plain"),
        ({"token_ids": 3}, "token_ids"),
        ({"num_tried_at": 3}, "num_tried_at"),
        ({"num_kept_at": [1, -1]}, "num_kept_at"),
        ({"num_kept_at": [1.5]}, "num_kept_at"),
    ],
)
def test_a_record_without_its_figures_is_refused_where_it_is_used(
    tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    path = tmp_path / "out.jsonl"
    whole, other = record(), record(prompt_id="2")
    path.write_text(json.dumps(whole | change) + "\n" + json.dumps(other) + "\n")
    with RecordFile(path) as file:
        assert file.find(other) == other and file.find(record(prompt_id="3")) is None
        with pytest.raises(OutpaceError, match=f"has no usable {name}; remove its line"):
            file.find(whole)


@pytest.mark.parametrize("line", ['{"draft": "\\udfff"}', '{"draft": ' + "[" * 10**5, "[]"])
def test_lines_that_are_no_records_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(OutpaceError, match="line 1: not a JSON record"):
        list(read_records(path))


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


def test_tables_and_records_hold_any_name(tmp_path: Path) -> None:
    name = "m\x1b[31m\n\udce9"
    table = markdown_table(("model", "MB"), [(name, "3"), ("n", "12")], num_text_columns=1)
    assert all(line.isprintable() for line in table.splitlines()) and len(table.splitlines()) == 4
    path = tmp_path / "records.jsonl"
    with RecordFile(path) as file:
        file.append(record(model=name, text="é\u2028"))
    assert json.loads(path.read_bytes())["model"] == name


@pytest.mark.parametrize("kind", SPECIAL)
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    SPECIAL[kind](tmp_path / "x.jsonl")
    with pytest.raises(OutpaceError, match="is not a regular file"):
        read_prompts(tmp_path / "x.jsonl")
    with pytest.raises(OutpaceError, match="is not a regular file"), RecordFile(tmp_path / "x.jsonl"):
        pass


def test_a_mark_of_the_byte_order_is_no_part_of_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert [prompt.text for prompt in read_prompts(tmp_path / "a.txt")] == ["one", "two"]
