"""Replayed drafts against the engine: the same calls on the same texts; and the script on a tiny model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import replay
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.drafters import make_drafter
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events, result_of
from outpace.engine.request import Request
from outpace.pricing.costs import straight
from outpace.rules.match import Match
from outpace.targets.table import TableTarget
from tests.fake_models import write_gguf

PROMPTS = [[1, 2, 3, 1, 2], [4, 4, 1], [7, 6, 5, 7]]


@pytest.mark.parametrize("spec", ["none", "ngram", "suffix", "mix:drafts=ngram+suffix"])
def test_calls_are_those_of_the_engine(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = TableTarget.random(vocab_size=8, order=2, spread=6.0, seed=5, context_length=96)
    context: dict[str, Any] = {"target": target, "costs": lambda: straight(0.1), "beside": None}

    def run(drafter: Any) -> list[Any]:
        return [
            result_of(events(target, drafter, Match(), [Request(prompt, Sampling(), 40)]))[0]
            for prompt in PROMPTS
        ]

    texts = [
        (f"kind {at % 2}", prompt, one.token_ids)
        for at, (prompt, one) in enumerate(zip(PROMPTS, run(NoDraft()), strict=True))
    ]
    found = replay.replay(make_drafter(spec, None, context), texts, 0.1)
    drafter, nodes = make_drafter(spec, None, context), list[int]()
    propose = drafter.propose

    def counted(states: Any, asks: Any) -> Any:
        trees = propose(states, asks)
        nodes.extend(tree.num_nodes - 1 for tree, ask in zip(trees, asks, strict=True) if not ask.unread)
        return trees

    monkeypatch.setattr(drafter, "propose", counted)
    stats = [one.stats for one in run(drafter)]
    assert found.calls == sum(one.target_calls for one in stats) > 0
    assert found.nodes == sum(nodes)  # those of the prompts' own calls aside
    assert found.tokens == sum(one.completion_tokens - one.first_tokens for one in stats)
    assert found.speed == pytest.approx(found.tokens / (found.calls + 0.1 * found.nodes))
    parts = [tokens / cost for tokens, cost in found.by_category.values()]
    assert found.slowest[0] == min(parts) and set(found.by_category) == {"kind 0", "kind 1"}


def test_drafters_that_read_scores_are_refused() -> None:
    target = TableTarget.random(vocab_size=8, order=2, seed=5, context_length=96)
    context: dict[str, Any] = {"target": target, "memo": lambda name, make, fits=None: make()}
    with pytest.raises(OutpaceError, match=r"the model's \w+ cannot be replayed, accepted are lookups"):
        replay.replay(make_drafter("recycling", None, context), [("x", [1, 2], [3, 4, 5])], 0.1)


def test_a_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_gguf(tmp_path / "tiny.gguf", "llama", tensor_type="Q4_1")
    (tmp_path / "prompts.txt").write_text("once upon a time\ntime upon time\n")
    monkeypatch.setenv("OUTPACE_CACHE", str(tmp_path / "cache"))
    command = (
        f"replay --model {tmp_path}/tiny.gguf --prompts {tmp_path}/prompts.txt --max-tokens 9 --price 0.1"
    )
    monkeypatch.setattr(sys, "argv", [*command.split(), "--draft", "none", "--draft", "ngram"])
    replay.main()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in capsys.readouterr().out.splitlines()
    ]
    assert [row[:2] for row in rows[2:]] == [["0.1", "none"], ["0.1", "ngram"]]
    assert rows[2][2] == "1.000" and float(rows[3][2]) > 0
    monkeypatch.setattr(sys, "argv", [*command.split(), "--draft", "nonsense"])
    with pytest.raises(SystemExit, match="error: unknown drafter 'nonsense'"):
        replay.main()
    monkeypatch.setattr(sys, "argv", [*command.split(), "--draft", "none", "--max-tokens", "1"])
    with pytest.raises(SystemExit, match="error: no answer has two tokens, accepted are --max-tokens of 2"):
        replay.main()
