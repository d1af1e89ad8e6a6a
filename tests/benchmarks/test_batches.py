"""The script that runs several prompts at once, on a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import batches
from outpace import Generation
from outpace.drafters.lookup.ngram import NGram
from outpace.models.text import Model
from tests.fake_models import write_gguf


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    printed = batches.table({"none": [10.0, 20.0, 30.0], "mix": [20.0, 10.0, 45.0]}, 8)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in printed.splitlines()]
    assert rows[0] == ["8 rows at once", "tokens/s", "speed to plain"]
    assert rows[2:] == [["none", "20.0", "1.00"], ["mix", "20.0", "1.50"]]


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *options: str) -> None:
    model = tmp_path / "tiny.gguf"
    if not model.exists():
        write_gguf(model, "llama", tensor_type="Q4_1")
        (tmp_path / "prompts.txt").write_text("once upon a time\nupon a time\ntime upon time\n")
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    command = f"batches --model {model} --prompts {tmp_path}/prompts.txt --threads 1 --max-tokens 6"
    monkeypatch.setattr(sys, "argv", [*command.split(), *options])
    batches.main()


def test_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, tmp_path, "--rows", "2", "--rounds", "1", "--draft", "ngram")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| 2 rows at once") and [line.split()[1] for line in lines[2:]] == [
        "none",
        "ngram",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--draft", "nosuch"], "error: unknown drafter 'nosuch'"), (["--rows", "0"], "2")],
)
def test_slips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, tmp_path, *options)


def test_texts_that_drafts_change_are_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real: Any = Model.generate

    def wrong(self: Model, prompt: list[str], **options: Any) -> list[Generation]:
        rows: list[Generation] = real(self, prompt, **options)
        if isinstance(options["draft"], NGram):
            rows[0].token_ids.append(1)
        return rows

    monkeypatch.setattr(Model, "generate", wrong)
    with pytest.raises(SystemExit, match="error: ngram says something else than none"):
        run(monkeypatch, tmp_path, "--draft", "ngram", "--rounds", "1")
