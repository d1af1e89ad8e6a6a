"""SPEED: the whole smoke run on synthetic text, again, after a kill, and what its records come to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")
pytest.importorskip("sacrebleu")
import torch
from transformers import AutoModelForSeq2SeqLM

from experiments.kit.results import Results
from experiments.speed import corpus as texts
from experiments.speed import run
from experiments.speed.decoding import ways_of
from experiments.speed.language import from_nothing, nats_by_loop, windows
from experiments.speed.models import kinds, language_model
from experiments.speed.scales import SCALES
from experiments.speed.summary import Summary
from experiments.speed.translation import from_before
from experiments.speed.writers import Writer, prompts
from experiments.translation import model as translation_model
from experiments.translation.pieces import Pieces
from tests.experiment_runs import check_report, kill, state
from tests.experiments.test_translation_run import write_corpus

SMOKE = SCALES["smoke"]
NOUNS = ["boat", "house", "river", "street", "garden", "market", "window", "letter"]
VERBS = ["turns", "waits", "falls", "moves", "stands", "burns"]
PACKAGE = {"package": "toy", "version": "1", "licence": "GPL-2 | MIT", "checksum": "0", "characters": 9}


def write_text(work: Path) -> None:
    random = np.random.default_rng(0)
    for name, count in {"train": 200, "dev": 40, "test": 60}.items():
        documents: list[list[str]] = []
        for _ in range(count):
            words = [f"the {random.choice(NOUNS)} {random.choice(VERBS)}" for _ in range(12)]
            documents.append([f"{random.integers(1 << 40):x} " + " and ".join(words) + "."])
        texts.write(work, name, documents)
    (work / "sources.json").write_text(json.dumps([PACKAGE]))


def arguments(work: Path) -> list[str]:
    return ["--scale", "smoke", "--work", str(work), "--corpus", str(work / "pairs"), "--threads", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A work folder after a whole run."""
    work = tmp_path_factory.mktemp("speed")
    write_text(work)
    (work / "pairs").mkdir()
    write_corpus(work / "pairs")
    with pytest.MonkeyPatch.context() as patch:
        # Models that have hardly been trained end no translation before it is as long as can be.
        patch.setattr(translation_model, "MAX_PIECES", 40)
        run.main(arguments(work))
        yield work


def test_every_way_of_every_model_writes_the_text_of_plain_decoding(made: Path) -> None:
    results = Results(made / "smoke" / "results.jsonl")
    records = results.of("text")
    every = [*ways_of(3, every=True), "ngram", "lookup"]
    greedy = [["none"], ["none"], ["none", "speed"], every]  # of the narrow models
    greedy += 2 * [[*ways_of(4, every=True), "ngram", "lookup"], every]  # of the wide one, and in 8 bits
    translated = [["none"], ["none"], ["none", "speed"], ways_of(3, every=True)]
    sampled = [min(2, len(ways)) for ways in greedy]  # plainly, and as planned
    assert len(records) == 2 * (sum(map(len, greedy + translated)) + sum(sampled))
    assert all(record["same"] for record in records)
    for row in Summary(results).rows:
        if row.way == "none":
            assert row.passes == row.loops
        if row.early is not None and not row.temperature:
            assert row.passes <= row.loops + 1e-9


def test_a_report_has_all_models(made: Path) -> None:
    report = check_report(made / "smoke", "quality.png")
    for name in (
        "narrow-shallow",
        "narrow-deep",
        "narrow-shared",
        "narrow-speed",
        "wide-speed",
        "wide-speed-3",
        "wide-speed-q8",
        "wide-speed-3-q8",
    ):
        assert f"| {name} |" in report
    for name in kinds(1, 3, {}):
        assert f"| translation-{name} |" in report


def test_a_second_run_changes_nothing_and_a_killed_one_goes_on(made: Path) -> None:
    before = state(made)
    run.main(arguments(made))
    assert state(made) == before
    folder = made / "smoke"
    lines = kill(
        folder, folder / "translation-speed", folder / "translation-speed" / "model.safetensors", by="bleu"
    )
    run.main(arguments(made))
    again = (folder / "results.jsonl").read_bytes().splitlines()
    assert len(again) == len(lines) + 1  # a second command has measured
    ways = [
        record["way"] for record in Results(folder / "results.jsonl").of("text", model="translation-speed")
    ]
    assert sorted(ways) == sorted(2 * ways_of(3, every=True))
    check_report(folder, "quality.png")


def test_held_out_text_is_judged_by_every_loop() -> None:
    size = SMOKE.language["narrow"]
    model: Any = language_model(size, kinds(1, 3, size.early)["speed"], 300, seed=0).eval()
    tokens = np.random.default_rng(0).integers(0, 300, 5 * size.window + 3).astype(np.uint16)
    nats = nats_by_loop(model, tokens, size.window)
    total = 0.0
    for first in range(0, 5 * size.window, size.window):
        ids = torch.from_numpy(tokens[first : first + size.window + 1].astype(np.int64))
        with torch.no_grad():
            laws = model(ids[None, :-1]).logits[0].log_softmax(-1)
        total -= float(laws.gather(1, ids[1:, None]).sum())
    assert len(nats) == 3 and nats[2] == pytest.approx(total / (5 * size.window), abs=1e-3)
    assert len({*nats}) == 3


def test_the_engine_judges_held_out_text_as_torch_does(made: Path) -> None:
    """Each of R loops, on windows that fill whole calls and a part of one."""
    size = SMOKE.language["wide"]
    tokens = np.random.default_rng(2).integers(0, 300, 2 * 100 + 1).astype(np.uint16)
    text = [tokens[first : first + 101].tolist() for first in (0, 100)]
    for folder, loop in (("wide-speed", 4), ("wide-speed-3", 3)):
        writer = Writer(made / "smoke" / folder, [made / "smoke" / "wide-speed"], SMOKE, text)
        expected = nats_by_loop(writer.torch, tokens, 100)
        assert len(expected) == loop and size.loops == 4
        assert np.log(writer.quality({})) == pytest.approx(expected[-1], abs=2e-3)


def test_shared_layers_run_once_at_first_and_then_as_often_as_a_step_draws() -> None:
    size = SMOKE.language["wide"]
    named = kinds(size.layers, 4, size.early)
    stage = from_nothing(size, named["speed"], 300, seed=0)
    steps = [stage.loops(step) for step in range(404)]
    assert set(steps[: size.once]) == {1} and set(steps[size.once :]) == {2, 3, 4}
    assert all(100 < steps[size.once :].count(loops) < 170 for loops in (2, 3, 4))
    assert steps == [stage.loops(step) for step in range(404)]  # of the step alone
    assert {from_nothing(size, named["deep"], 300, seed=0).loops(step) for step in range(9)} == {1}
    always = from_nothing(SMOKE.language["narrow"], named["speed"], 300, seed=0)
    assert {always.loops(step) for step in range(9)} == {4}


def test_a_deep_translator_begins_as_the_looped_one_does(made: Path) -> None:
    """R copies of the G layers one after another say what the G layers say in R loops."""
    size, folder = SMOKE.translation, made / "smoke"
    base, pieces = folder / "translation-base", Pieces(folder / "pieces.model")
    named = kinds(size.size.decoder_layers, size.loops, size.early)
    begun = {name: from_before(base, pieces, size, kind, seed=1).new().eval() for name, kind in named.items()}
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, pieces.num_ids, (2, 9)))
    with torch.no_grad():
        said = {
            name: model(input_ids=ids, decoder_input_ids=ids.flip(1)).logits for name, model in begun.items()
        }
        trained = AutoModelForSeq2SeqLM.from_pretrained(base)(
            input_ids=ids, decoder_input_ids=ids.flip(1)
        ).logits
    assert torch.equal(said["deep"], said["speed"]) and torch.equal(said["shared"], said["speed"])
    assert torch.equal(said["shallow"], trained) and not torch.equal(said["deep"], trained)
    assert begun["deep"].config.decoder_layers == size.loops * begun["speed"].config.decoder_layers


def test_a_step_has_the_same_examples_whenever_it_is_made() -> None:
    tokens = np.arange(2000).astype(np.uint16)
    make = windows(tokens, 32, 4, seed=3)
    one, other = make(7), windows(tokens, 32, 4, seed=3)(7)
    assert torch.equal(one["input_ids"], other["input_ids"]) and not torch.equal(
        one["input_ids"], make(8)["input_ids"]
    )
    assert torch.equal(one["input_ids"] + 1, one["labels"])


def test_prompts_hold_no_end_of_a_document() -> None:
    tokens = np.random.default_rng(1).integers(0, 40, 4000).astype(np.uint16)
    found = prompts(tokens, 5, 12)
    assert len(found) == 5 and all(len(one) == 12 and 0 not in one for one in found)
