"""`outpace datastore`: built from files of every kind, checked, and refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from outpace.files import open_model
from outpace.files.datastore import Datastore
from tests.cli.conftest import Outcome
from tests.fake_models import write_gguf

Run = Callable[..., Outcome]


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf", "llama")
    return str(tmp_path / "tiny.gguf")


def test_build_and_info(run: Run, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the wind turned\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"turns": ["one", "two"]}) + '\n{"token_ids": [5, 6]}\n')
    output = str(tmp_path / "x.datastore")
    inputs = [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")]
    outcome = run("datastore", "build", "--model", tiny, "--output", output, *inputs)
    assert outcome.status == 0 and outcome.err == ""
    assert "texts       4\n" in outcome.out
    assert run("datastore", "info", output) == (0, outcome.out, "")
    encode = open_model(tiny).tokenizer.encode
    texts = ["the wind turned\n", "one", "two"]
    ids = [[*encode(text, add_special_tokens=False), -1] for text in texts]
    assert Datastore(output).tokens.tolist() == [*chain(*ids), 5, 6, -1]


def test_an_existing_file_is_overwritten_by_force_alone(run: Run, tiny: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    damaged = tmp_path / "x.datastore"
    damaged.write_bytes(b"OUTPDATA and rubbish")
    build = ["datastore", "build", "-m", tiny, "-o", str(damaged), str(tmp_path / "a.txt")]
    outcome = run(*build)
    assert outcome.status == 2 and "--force" in outcome.err and outcome.err.count("\n") == 1
    assert damaged.read_bytes() == b"OUTPDATA and rubbish"
    assert run(*build, "--force").status == 0
    assert Datastore(damaged).num_texts == 1


@pytest.mark.parametrize("content", [None, b"", b"text", b"OUTPDATA", b"OUTPDATA" + bytes(100)])
def test_what_is_no_datastore_is_one_line(run: Run, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.datastore"
    if content is not None:
        path.write_bytes(content)
    outcome = run("datastore", "info", str(path))
    assert outcome.status == 2 and outcome.out == ""
    assert outcome.err.startswith("error: ") and outcome.err.count("\n") == 1 and "x.datastore" in outcome.err


def test_slips_cost_no_waiting(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("abc")
    nowhere = str(tmp_path / "none" / "x")
    outcome = run("datastore", "build", "-m", "no such model", "-o", nowhere, str(text))
    assert outcome.status == 2 and "no folder" in outcome.err
    assert run("datastore", "build", str(text)).status == 2
    assert run("datastore", "build", "-o", str(tmp_path / "x")).status == 2
