"""The script that times grammars, on a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("llguidance")
from benchmarks import grammars
from outpace.core.errors import OutpaceError
from tests.fake_models import write_gguf


def test_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama", tensor_type="Q4_1")
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    command = f"grammars --model {tmp_path}/tiny.gguf --threads 1 --max-tokens 40 --rounds 1 --draft ngram"
    monkeypatch.setattr(sys, "argv", command.split())
    grammars.main()
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in capsys.readouterr().out.splitlines()]  # fmt: skip
    assert rows[0] == ["draft", "tokens/s", "speed to plain", "tokens per call", "time in masks"]
    assert [row[0] for row in rows[2:]] == ["plain", "forced tokens", "ngram", "ngram, forced tokens"]
    per_call = {row[0]: float(row[3]) for row in rows[2:]}
    assert per_call["plain"] == 1 < per_call["forced tokens"] <= per_call["ngram, forced tokens"]


def test_changed_texts_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter(("a", "b"))
    monkeypatch.setattr(grammars, "ask", lambda *args: grammars.Sum(texts=[next(said)]))
    with pytest.raises(OutpaceError, match="forced tokens says something else than plain"):
        grammars.measure(None, [], max_tokens=2, rounds=1)  # type: ignore[arg-type]
