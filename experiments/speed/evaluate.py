"""How good the models of a scale are, and how soon they say what they say.

Every text goes through all models of a family in all ways, one after another in one process, so that a
machine that grows slower slows them alike. What results.jsonl holds already is not measured again.

kind "run"    a command that measured: hardware, versions, date
kind "corpus" the language models' text: packages, tokens, vocabulary
kind "model"  a model: weights, training, perplexity or BLEU
kind "text"   a text by a model in one way at a temperature: passes per token, seconds per token, whether it
              is that of plain decoding; of plain greedy text also how often each early loop agrees
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.kit.results import RESULTS, Record, Results, run_record
from experiments.kit.subjects import one_by_one
from experiments.kit.trainings import duration_of, short_fingerprint
from experiments.speed.decoding import PLAIN
from experiments.speed.scales import Scale
from experiments.speed.tokens import token_array
from experiments.speed.translation import Translator, sources, translators
from experiments.speed.writers import Writer, prompts, writers
from outpace.train.checkpoint import RUN

Subject = Writer | Translator


def evaluate(work: Path, corpus: Path, folder: Path, scale: Scale, *, command: str = "") -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    results = Results(folder / RESULTS, run_record(command, "cpu"))
    text = token_array(work, "test", scale.num_tokens)
    if not results.of("corpus"):
        results.add(_corpus_record(work, scale))
    held_out = token_array(work, "dev", scale.num_tokens)
    _family(results, writers(folder, scale, held_out), prompts(text, scale.prompts, scale.given))
    _family(results, translators(folder, scale), sources(corpus, folder, scale.timed))


def _corpus_record(work: Path, scale: Scale) -> Record:
    path = work / "sources.json"
    parts = ("train", "dev", "test")
    return {
        "kind": "corpus",
        "tokens": {name: len(token_array(work, name, scale.num_tokens)) for name in parts},
        "vocabulary": scale.num_tokens,
        "packages": json.loads(path.read_text()) if path.exists() else [],
    }


def _family(results: Results, subjects: Sequence[Subject], inputs: Sequence[list[int]]) -> None:
    for subject in subjects:
        _describe(results, subject)
    tasks: list[tuple[str, Callable[[], None]]] = []
    for subject in subjects:
        if len(results.of("text", model=subject.name)) < len(inputs) * _ways(subject):
            # What runs first allocates, and plans are made.
            tasks.append((subject.name, partial(_warm, subject, inputs[0])))
    for number, given in enumerate(inputs):
        tasks.append((f"text {number + 1}", partial(_texts, results, subjects, number, given)))
    one_by_one(tasks)


def _ways(subject: Subject) -> int:
    return sum(len(subject.ways(temperature)) for temperature in subject.temperatures)


def _warm(subject: Subject, given: list[int]) -> None:
    for way in subject.ways(0.0):
        subject.write(given, way, 0.0)


def _describe(results: Results, subject: Subject) -> None:
    fingerprint = short_fingerprint(subject.torch)
    if results.knows(subject.name, fingerprint):
        return
    run = json.loads((subject.stages[-1] / RUN).read_text())
    weights = sum(one.numel() for one in subject.torch.parameters() if one.requires_grad)
    record: Record = {
        "kind": "model",
        "model": subject.name,
        "family": subject.family,
        "loops": subject.loops,
    }
    record |= {"fingerprint": fingerprint, "weights": weights, "training": duration_of(*subject.stages)}
    results.add(record | {"settings": run["settings"], "quality": subject.quality(run)})


def _texts(results: Results, subjects: Sequence[Subject], number: int, given: list[int]) -> None:
    """What is missing of a text, by all models."""
    for subject in subjects:
        for temperature in subject.temperatures:
            where = {"model": subject.name, "number": number, "temperature": temperature}
            has = {record["way"] for record in results.of("text", **where)}
            if len(has) < len(subject.ways(temperature)):
                made = _in_turns(subject, where, given, temperature)
                results.add(*(record for record in made if record["way"] not in has))


def _in_turns(subject: Subject, where: Record, given: list[int], temperature: float) -> list[Record]:
    records: list[Record] = []
    plain: list[int] = []
    for way in subject.ways(temperature):
        made = subject.write(given, way, temperature)
        facts: dict[str, Any] = {"tokens": len(made.tokens), "passes": round(made.passes, 4)}
        facts["token_s"] = round(made.token_s, 7)
        if way == PLAIN:
            plain = made.tokens
            if subject.loops > 1 and not temperature:
                agree = subject.agreement(given, plain)
                facts["agree"] = [round(float(one.mean()), 4) for one in agree]
        records.append({"kind": "text", **where, "way": way, **facts, "same": made.tokens == plain})
    return records
