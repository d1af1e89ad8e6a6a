"""A trace adds up: its counts are the statistics', its tokens the text's, its pieces the text."""

from __future__ import annotations

import json
from typing import Any

import pytest

import outpace
from outpace.engine.text import TextStream
from outpace.engine.trace import KIND, VERSION, Trace
from outpace.models.text import Model
from tests.fake_models import write_gguf

PROMPT = "one two one two one two one"
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ngram:max_n=1", {}),
    ("recycling", {}),
    ("mix:drafts=ngram+suffix", {}),
    ("none", {}),
    ("ngram", {"temperature": 0.9, "seed": 3}),
    ("ngram", {"stop": ("e",)}),
    ("ngram", {"stop_token_ids": list(range(70, 90))}),
    ("ngram", {"stop": ("lo", "a"), "temperature": 1.3}),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("trace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        write_gguf(folder / "tiny.gguf", "llama")
        loaded: Model = outpace.load(folder / "tiny.gguf", threads=1)
        return loaded


@pytest.mark.parametrize(("draft", "options"), CASES, ids=str)
def test_it_adds_up(model: Model, draft: str, options: dict[str, Any]) -> None:
    stream = model.stream(PROMPT, raw=True, draft=draft, max_tokens=60, **options)
    said = TextStream(model.tokenizer, stop=options.get("stop", ()), keep_first_space=True)
    trace = Trace(said, model.tokenizer, model.target.eos_ids, model="tiny", draft=draft)
    parts = [trace.add(event, last=event.job.result is not None) for event in stream.events()]
    whole, result = trace.whole(), stream.result
    assert json.loads(json.dumps(whole)) == whole
    assert (whole["version"], whole["kind"], whole["model"], whole["draft"]) == (VERSION, KIND, "tiny", draft)
    assert whole["prompt_tokens"] == result.prompt_tokens
    assert whole["sampling"]["temperature"] == options.get("temperature", 0.0)
    assert [step for part in parts for step in part["steps"]] == whole["steps"]
    assert all(part | {"steps": None} == whole | {"steps": None} for part in parts)
    tokens = []
    for step in whole["steps"]:
        tree = step["tree"]
        assert len(tree["tokens"]) == len(tree["texts"]) == len(tree["parents"])
        path = [0, *step["kept"]]
        assert [tree["parents"][node] for node in step["kept"]] == path[:-1]
        assert step["call_s"] > 0 and step["draft_s"] >= 0
        new = [tree["tokens"][node] for node in step["kept"]] + (
            [step["own"]["token"]] if step["own"] else []
        )
        assert len(step["said"]) == len(new)
        tokens += new
    assert tokens == result.token_ids
    assert "".join(piece for step in whole["steps"] for piece in step["said"]) == result.text
    assert sum(len(step["tree"]["tokens"]) - 1 for step in whole["steps"]) == result.stats.num_drafted
    assert sum(len(step["kept"]) for step in whole["steps"]) == result.stats.num_accepted
    call_s = sum(step["call_s"] for step in whole["steps"])
    assert result.stats.prompt_s + result.stats.score_s <= call_s * 1.000001 <= result.stats.wall_s * 1.01


def test_sources_are_told_by_a_mixture_alone(model: Model) -> None:
    for draft, known in (("mix:drafts=ngram+suffix", {"ngram", "suffix", "ngram+suffix"}), ("ngram", set())):
        stream = model.stream(PROMPT, raw=True, draft=draft, max_tokens=60)
        trace = Trace(
            TextStream(model.tokenizer), model.tokenizer, model.target.eos_ids, model="tiny", draft=draft
        )
        trees = [
            trace.add(event, last=event.job.result is not None)["steps"][0]["tree"]
            for event in stream.events()
        ]
        drafted = [tree for tree in trees if len(tree["tokens"]) > 1]
        assert drafted and all(("sources" in tree) == bool(known) for tree in drafted)
        assert {one for tree in drafted for one in tree.get("sources", [""])[1:]} <= known
