"""Translate held-out segments with every setting, exact and relaxed: calls, BLEU, time.

Two passes. In batches, for what does not depend on time: accepted block size, BLEU, whether exact is exact.
Then some segments one by one: greedy, all settings, transformers' `generate` and CTranslate2 take turns on
each, in one process, so that a machine that grows slower slows them alike. What results.jsonl holds already
is not measured again.

kind "run"      a command that measured: hardware, versions, date
kind "corpus"   the numbers of segments and pieces, and the packages that they are from
kind "model"    a model that translates: its trainings, its fingerprint
kind "alpha"    n-grams of one weight on dev segments: tokens, calls (see rescoring.py)
kind "outputs"  all test segments by one setting, in batches: of each its tokens, calls, counts for BLEU
kind "time"     a test segment by one setting, alone
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from experiments.kit.results import RESULTS, Record, Results, run_record
from experiments.kit.trainings import duration_of, short_fingerprint
from experiments.translation import bleu, corpus
from experiments.translation.base import BASE, TEACHER
from experiments.translation.corpus import Segment
from experiments.translation.decoding import (
    Ids,
    accelerated,
    alone,
    by_ctranslate2,
    by_transformers,
    in_batches,
)
from experiments.translation.distil import converted, translator
from experiments.translation.heads import BASES
from experiments.translation.model import load_model, short_enough
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.rescoring import rescored_settings
from experiments.translation.scales import Scale
from experiments.translation.settings import CTRANSLATE2, EXACT, NONE, TRANSFORMERS, Setting, chains
from outpace.engine.request import Generation
from outpace.progress import progress_bar
from outpace.train.checkpoint import RUN

Way = Callable[[Ids], Ids]
"""To translate one segment."""


class Subject:
    """A model with the settings that translate with it. Greedy has a target of its own, without taps."""

    def __init__(self, folder: Path, settings: list[Setting], pieces: Pieces, device: str) -> None:
        first = settings[0].training
        self.settings = settings
        self.name = BASES[first.data] if first.regime == "frozen" else first.name
        self.where = first.model(folder)
        self.trained = {one.training.name: one.training.heads(folder) for one in settings}
        if first.regime == "frozen":
            self.trained[self.name] = self.where
        if self.name == BASE and (folder / TEACHER / RUN).exists():
            self.trained[TEACHER] = folder / TEACHER
        self.pieces = pieces
        self.model = load_model(self.where, device)
        self.fast: list[tuple[Record, Any]] = [(NONE, accelerated(self.model, draft="none"))]
        self.fast += [(one.record, accelerated(self.model, **one.options(folder))) for one in settings]

    def ways(self) -> list[tuple[Record, Way]]:
        """Everything that is timed."""
        if not (self.where / "vocab.json").exists():
            self.pieces.save(self.where)  # for the conversion
        other = translator(converted(self.where), threads=torch.get_num_threads())
        ways: list[tuple[Record, Way]] = [(record, partial(alone, fast)) for record, fast in self.fast]
        ways.append((TRANSFORMERS, lambda source: by_transformers(self.model, source)))
        ways.append((CTRANSLATE2, lambda source: by_ctranslate2(other, self.pieces, source)))
        return ways

    def margin(self, source: Ids, tokens: Ids, others: Ids) -> float | None:
        """By how much the model prefers `tokens` to `others` where they first differ; None: nowhere.

        Of two outputs that are both greedy up to rounding, this is about the size of a rounding error.
        """
        if tokens == others:
            return None
        at = next(place for place, pair in enumerate(zip(tokens, others, strict=False)) if pair[0] != pair[1])
        ids = torch.tensor([source], device=self.model.device)
        begun = torch.tensor([[self.pieces.pad_id, *tokens[:at]]], device=self.model.device)
        with torch.no_grad():
            logits = self.model(input_ids=ids, decoder_input_ids=begun, use_cache=False).logits[0, -1]
        return abs(float(logits[tokens[at]] - logits[others[at]]))


def evaluate(
    corpus_folder: Path, folder: Path, scale: Scale, *, command: str = "", device: str = "cpu"
) -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    results = Results(folder / RESULTS, run_record(command, device))
    pieces = Pieces(folder / MODEL)
    if not results.of("corpus"):
        results.add(_corpus_record(corpus_folder, pieces))
    test = short_enough(corpus.read(corpus_folder / "test.tsv"), pieces)[: scale.sentences]
    settings = [*chains(scale), *rescored_settings(results, corpus_folder, folder, scale, device)]
    by_model: dict[Path, list[Setting]] = {}
    for setting in settings:
        by_model.setdefault(setting.training.model(folder), []).append(setting)
    subjects = [Subject(folder, some, pieces, device) for some in by_model.values()]
    sources = pieces.encode([one.source for one in test])
    for subject in subjects:
        _describe(results, subject)
    with progress_bar() as progress:
        timed = min(scale.timed, len(test))
        for done, subject in enumerate(subjects):
            if progress is not None:
                progress(done, len(subjects) + timed, f"translations by {subject.name}")
            _translate_all(results, subject, test, sources)
        _time_all(results, subjects, sources[:timed], progress)


def _corpus_record(corpus_folder: Path, pieces: Pieces) -> Record:
    sources = corpus_folder / "sources.json"
    return {
        "kind": "corpus",
        "segments": {
            name: len(corpus.read(corpus_folder / f"{name}.tsv")) for name in ("train", "dev", "test")
        },
        "pieces": pieces.pad_id,
        "packages": json.loads(sources.read_text()) if sources.exists() else [],
    }


def _describe(results: Results, subject: Subject) -> None:
    """A model's record; results of another model of its name are refused."""
    fingerprint = short_fingerprint(subject.model)
    if results.knows(subject.name, fingerprint):
        return
    trained = {}
    for name, where in subject.trained.items():
        run = json.loads((where / RUN).read_text())
        trained[name] = duration_of(where) | {key: run[key] for key in ("dev_bleu", "passes") if key in run}
    weights = sum(weight.numel() for weight in subject.model.parameters() if weight.requires_grad)
    results.add(
        {
            "kind": "model",
            "model": subject.name,
            "fingerprint": fingerprint,
            "weights": weights,
            "trainings": trained,
        }
    )


def _translate_all(results: Results, subject: Subject, test: list[Segment], sources: list[Ids]) -> None:
    """All test segments in batches: a record of kind "outputs" for each setting that has none."""
    missing = [
        (setting, fast)
        for setting, fast in subject.fast
        if not results.of("outputs", model=subject.name, **setting)
    ]
    if not missing:
        return
    pad_id = subject.pieces.pad_id
    greedy = in_batches(subject.fast[0][1], sources, pad_id)
    for setting, fast in missing:
        written = greedy if setting is NONE else in_batches(fast, sources, pad_id)
        results.add(_outputs(subject, setting, test, sources, written, greedy))


def _outputs(
    subject: Subject,
    setting: Record,
    test: list[Segment],
    sources: list[Ids],
    written: Sequence[Generation],
    greedy: Sequence[Generation],
) -> Record:
    texts = subject.pieces.decode([one.token_ids for one in written])
    record = {
        "kind": "outputs", "model": subject.name, **setting,
        "tokens": [len(one.token_ids) for one in written],
        "calls": [one.stats.target_calls + 1 for one in written],  # the prompt's own is one too
        "counts": [bleu.counts(text, one.target) for text, one in zip(texts, test, strict=True)],
        "same": sum(one.token_ids == plain.token_ids for one, plain in zip(written, greedy, strict=True)),
    }  # fmt: skip
    if setting["rule"] == EXACT:
        margins = [
            subject.margin(source, plain.token_ids, one.token_ids)
            for source, one, plain in zip(sources, written, greedy, strict=True)
        ]
        record["margins"] = [margin for margin in margins if margin is not None]
    return record


def _time_all(results: Results, subjects: list[Subject], sources: list[Ids], progress: Any) -> None:
    """Segments one by one by all ways of all models, in turns: records of kind "time"."""
    has = Counter((record["model"], record["segment"]) for record in results.of("time"))
    whole = {subject.name: len(subject.fast) + 2 for subject in subjects}
    if all(has[name, number] >= whole[name] for name in whole for number in range(len(sources))):
        return
    ways = {subject.name: subject.ways() for subject in subjects}
    for some in ways.values():
        for _, way in some:
            way(sources[0])  # the first call allocates
    for number, source in enumerate(sources):
        if progress is not None:
            progress(len(subjects) + number, len(subjects) + len(sources), "one by one")
        for name, some in ways.items():
            if has[name, number] < whole[name]:
                results.add(*_times(name, some, number, source))


def _times(name: str, ways: list[tuple[Record, Way]], number: int, source: Ids) -> list[Record]:
    records: list[Record] = []
    greedy: Ids = []
    for setting, way in ways:
        began = perf_counter()
        tokens = way(source)
        seconds = perf_counter() - began
        if setting is NONE:
            greedy = tokens
        records.append(
            {"kind": "time", "model": name, "segment": number, **setting}
            | {"wall_s": round(seconds, 6), "same": tokens == greedy}
        )
    return records
