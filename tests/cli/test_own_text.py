"""`outpace datastore write` and `count`: a model's own text, resumable, and the table that drafts from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from outpace.cli.main import main
from tests import full_disk
from tests.fake_models import write_gguf


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    write_gguf(path, "llama")
    return str(path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))


def write(output: Path, model: str, tokens: int) -> int:
    return main(
        ["datastore", "write", "-o", str(output), "--tokens", str(tokens), "-m", model, "--batch", "6"]
    )


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(tmp_path: Path, model: str) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert write(whole, model, 1500) == 0
    groups = [json.loads(line)["group"] for line in whole.read_text().splitlines()]
    assert groups == sorted(groups) and len(set(groups)) > 1
    lines = whole.read_text().splitlines(keepends=True)
    first = [line for line, group in zip(lines, groups, strict=True) if group == groups[0]]
    parts.write_text("".join(first) + lines[len(first)][:20])
    assert write(parts, model, 1500) == 0
    assert parts.read_text() == whole.read_text()
    assert write(parts, model, 10) == 0 and parts.read_text() == whole.read_text(), "enough is there already"


def test_a_card_says_what_the_text_is(tmp_path: Path, model: str) -> None:
    text = tmp_path / "own.jsonl"
    for tokens in (300, 1500):  # a longer text has another card
        assert write(text, model, tokens) == 0
        records = [json.loads(line) for line in text.read_text().splitlines()]
        lines = (tmp_path / "own.card.md").read_text().splitlines()
        rows = (line[2:-2].split(" | ") for line in lines if line.startswith("| ") and "---" not in line)
        facts = {row[0]: row[1] for row in rows if len(row) == 2}
        assert facts["documents"] == str(len(records))
        assert facts["tokens of answers"] == str(sum(len(one["token_ids"]) for one in records))
        assert facts["tokens of prompts"] == str(sum(len(one["prompt_ids"]) for one in records))
        ended = sum(len(one["token_ids"]) < 256 for one in records)
        assert facts["answers that ended by themselves"] == str(ended) and facts["seed"] == "0"
        assert facts["answers"].startswith("the likeliest tokens, at most 256")


def test_what_was_written_drafts(tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "own.jsonl"
    assert main(["generate", "hello", "-m", model, "--draft", "backoff", "--max-tokens", "9"]) == 2
    assert "outpace datastore count" in capsys.readouterr().err
    assert write(text, model, 400) == 0
    assert main(["datastore", "count", str(text), "-m", model]) == 0
    assert "contexts" in capsys.readouterr().out
    for draft in ("backoff", "mix:drafts=ngram+backoff", "mix"):
        assert (
            main(["generate", "hello", "-m", model, "--draft", draft, "--max-tokens", "30", "--compare"]) == 0
        )
        assert "identical: yes" in capsys.readouterr().out


def test_a_full_disk_is_named_and_leaves_whole_groups(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, parts = tmp_path / "whole.jsonl", tmp_path / "parts.jsonl"
    assert write(whole, model, 1500) == 0 and write(parts, model, 10) == 0
    before = parts.read_bytes()
    assert 0 < len(before) < len(whole.read_bytes())
    with monkeypatch.context() as patch:
        full_disk.fill(patch, "a")
        assert write(parts, model, 1500) == 2
    assert capsys.readouterr().err == f"error: cannot write {parts}: No space left on device\n"
    assert parts.read_bytes() == before
    with monkeypatch.context() as patch:
        write_one = full_disk.Half.write
        patch.setattr(full_disk.Half, "write", lambda self, data: write_one(self, data) if data else 0)
        full_disk.fill(patch, "a")
        assert write(parts, model, 1500) == 2  # not before there is something to write
    assert parts.read_bytes() == before
    assert write(parts, model, 1500) == 0 and parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["write", "-o", "FOREIGN", "--tokens", "5"], "not a file that this command has written"),
        (["write", "-o", "DEEP", "--tokens", "5"], "not a file that this command has written"),
        (["write", "-o", "GROUP", "--tokens", "5"], "not a file that this command has written"),
        (
            ["write", "-o", "IDS", "--tokens", "5"],
            "its lines have a group from 0 on, prompt_ids and token_ids",
        ),
        (
            ["write", "-o", "HUGE", "--tokens", "5"],
            "its lines have a group from 0 on, prompt_ids and token_ids",
        ),
        (["write", "-o", "PIPE", "--tokens", "5"], "not a regular file"),
        (["count", "PIPE"], "not a regular file"),
        (["write", "-o", "OUT", "--tokens", "0"], ">= 1"),
        (["write", "-o", "OUT/gone/x", "--tokens", "5"], "cannot write"),
        (["count", "FOREIGN"], "line 1"),
        (["count", "MISSING"], "MISSING"),
        (["count", "FOREIGN", "-o", "."], "it is a folder, accepted is the name of a file"),
        (["count", "FOREIGN", "--order", "99"], "1 to 8"),
    ],
)
def test_bad_input_gets_one_line(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str], args: list[str], message: str
) -> None:
    (tmp_path / "FOREIGN.jsonl").write_text('{"nothing": 1}\n')
    (tmp_path / "DEEP").write_text("[" * 100_000 + "\n")
    (tmp_path / "GROUP").write_text('{"token_ids": [], "group": "1"}\n')
    (tmp_path / "IDS").write_text('{"token_ids": "abcdefgh", "group": 1}\n')
    (tmp_path / "HUGE").write_text('{"token_ids": [], "group": 1' + "0" * 40 + "}\n")
    os.mkfifo(tmp_path / "PIPE")
    names = {"FOREIGN": "FOREIGN.jsonl"}
    args = [str(tmp_path / names.get(a, a)) if a.isupper() or "/" in a else a for a in args]
    assert main(["datastore", *args, "-m", model]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert (tmp_path / "FOREIGN.jsonl").read_text() == '{"nothing": 1}\n'
