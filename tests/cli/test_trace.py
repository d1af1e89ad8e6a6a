"""`outpace generate --trace FILE`: a trace beside whatever is printed; a bad place costs no waiting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import FakeModel, Outcome
from tests.fake_models import write_gguf

Run = Callable[..., Outcome]
PROMPT = "one two one two one two one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("trace")
    write_gguf(made / "tiny.gguf", "llama")
    return made


@pytest.fixture
def args(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("OUTPACE_CACHE", str(folder / "cache"))
    return [PROMPT, "-m", str(folder / "tiny.gguf"), "--max-tokens", "40", "--raw", "--draft", "ngram"]


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


@pytest.mark.parametrize("more", [[], ["--show-drafts"], ["--json"], ["--compare"], ["--stop", "e"]])
def test_what_is_printed_stays_and_the_trace_has_it(
    run: Run, args: list[str], tmp_path: Path, more: list[str]
) -> None:
    without = run("generate", *args, *more)
    place = tmp_path / "trace.json"
    outcome = run("generate", *args, *more, "--trace", str(place))
    assert outcome.status == 0
    trace = read(place)
    said = "".join(piece for step in trace["steps"] for piece in step["said"])
    assert (trace["kind"], trace["draft"], trace["sampling"]["seed"]) == ("outpace trace", "ngram", 0)
    if "--json" in more:
        record = json.loads(outcome.out)
        assert record["text"] == said
        assert record["num_accepted"] == sum(len(step["kept"]) for step in trace["steps"])
    elif "--compare" in more:
        assert outcome.out.startswith(said) and "identical: yes" in outcome.out
    else:
        assert outcome == without
        assert "--show-drafts" in more or outcome.out.rstrip("\n") == said.rstrip("\n")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("missing/trace.json", "cannot write missing/trace.json: missing is no folder to write in"),
        (".", ". is not a regular file, accepted is the name of one to write"),
        ("/dev/null", "/dev/null is not a regular file, accepted is the name of one to write"),
    ],
)
def test_a_bad_place_is_one_line_before_the_model_is_loaded(
    run: Run, model: FakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("generate", "x", "--trace", place)
    assert outcome.status == 2 and outcome.err.startswith(f"error: {said}") and outcome.err.count("\n") == 1
    assert outcome.out == "" and not model.loaded_with


def test_what_was_there_is_replaced_whole(run: Run, args: list[str], tmp_path: Path) -> None:
    place = tmp_path / "trace.json"
    place.write_text("x" * 100_000)
    assert run("generate", *args, "--trace", str(place)).status == 0
    assert read(place)["version"] == 1 and list(tmp_path.iterdir()) == [place]
