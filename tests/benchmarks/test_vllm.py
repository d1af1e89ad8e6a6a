"""Heads in vLLM: what is counted, with an engine that only pretends to be it, and our own on a tiny model."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
import outpace
from benchmarks.vllm import acceptance
from benchmarks.vllm.acceptance import Found, method_of, table
from benchmarks.vllm.adapter import BY_DEPTH, COUNTERS, Vllm
from outpace.core.errors import OutpaceError
from tests.eagle_heads import write_random_eagle
from tests.fake_models import write_gguf
from tests.made_heads import write_random_medusa

DEPTH = 3


def test_the_same_texts_are_compared_by_themselves() -> None:
    theirs = [Found([1, 2, 3], 4, [2, 1, 0]), Found([5, 6], 4, [4, 3, 2])]
    ours = [Found([1, 2, 3], 2, [1, 1, 0]), Found([5, 7], 2, [0, 0, 0])]
    lines = table({"vllm 1": theirs, "ours": ours, "others": ours[1:] * 2}, DEPTH).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [
        ["vllm 1", "all", "2", "8", "0.750", "0.500", "0.250", "2.500"],
        ["ours", "all", "2", "4", "0.250", "0.250", "0.000", "1.500"],
        ["others", "all", "2", "4", "0.000", "0.000", "0.000", "1.000"],
        ["ours", "same as vllm 1", "1", "2", "0.500", "0.500", "0.000", "2.000"],
        ["vllm 1", "same as ours", "1", "4", "0.500", "0.250", "0.000", "1.750"],
    ]


def test_the_adapter_counts_each_answer_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class LLM:
        def __init__(self, model: str, **options: Any) -> None:
            asked.update(options, model=model)
            self.answers = 0

        def generate(self, prompt: Any, sampling: Any, **options: Any) -> Any:
            self.answers += 1
            assert prompt == {"prompt_token_ids": [7]} and sampling["stop_token_ids"] == [2]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=(4, 5))])]

        def get_metrics(self) -> list[Any]:
            counts = [SimpleNamespace(name=name, value=2 * self.answers) for name in COUNTERS.values()]
            return [*counts, SimpleNamespace(name=BY_DEPTH, values=[3 * self.answers, 0])]

    fake: Any = ModuleType("vllm")
    fake.LLM, fake.SamplingParams, fake.__version__ = LLM, dict, "1"
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    names = "model heads method dtype".split()
    engine = Vllm(argparse.Namespace(**dict.fromkeys(names, "x"), depth=2, threads=1, context=64))
    assert asked["speculative_config"] == {"method": "x", "model": "x", "num_speculative_tokens": 2}
    for _ in range(2):
        answer = engine.decode([7], 8, [2])
        assert answer == {"token_ids": [4, 5], "drafts": 2, "drafted": 2, "accepted_at": [3, 0]}


@pytest.mark.parametrize("kind", ["eagle", "medusa"])
def test_ours_drafts_alike_on_the_file_and_behind_the_export(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "tiny.gguf"
    write_gguf(model, "llama", num_hidden_layers=8)
    loaded = outpace.load(model)
    options: dict[str, Any] = {"vocab_size": loaded.target.vocab_size, "taps": ("1", "3", "4")}
    if kind == "eagle":
        write_random_eagle(tmp_path / "heads", loaded.target, **options)
    else:
        write_random_medusa(tmp_path / "heads", loaded.target)

    @contextmanager
    def pretended(folder: Path, heads: Path, method: str, **more: Any) -> Iterator[Any]:
        assert method == kind and (heads / "model.safetensors").exists()
        yield "9", lambda text, tokens: Found([1], 1, [0] * DEPTH)

    monkeypatch.setattr(acceptance, "in_vllm", pretended)
    monkeypatch.setattr(acceptance, "target_folder", lambda source, folder: source)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The moon\nTides\n")
    found = tmp_path / "found.jsonl"
    args = f"x {tmp_path / 'heads'} --model {model} --prompts {prompts} --max-tokens 16 --depth {DEPTH}"
    args += f" --work {tmp_path / 'work'} --python {sys.executable} --json {found}"
    monkeypatch.setattr(sys, "argv", args.split())
    acceptance.main()
    lines = [line.split("|") for line in capsys.readouterr().out.splitlines() if "outpace, the" in line]
    assert lines[0][2:] == lines[1][2:], "the file is its own folder here"
    assert len(found.read_text().splitlines()) == 2 * 3


def test_heads_that_vllm_has_no_name_for(tmp_path: Path) -> None:
    with pytest.raises(OutpaceError, match="is no folder of heads"):
        method_of(tmp_path)
    for config in ('{"method": "markov_heads"}', '{"method": "eagle", "generation": "eagle"}'):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(OutpaceError, match="accepted are EAGLE-3 layers and Medusa heads of ours"):
            method_of(tmp_path)
