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
from experiments.kit.subjects import EXACT, Setting, Subject, by_model, one_by_one
from experiments.translation import bleu, corpus
from experiments.translation.corpus import Segment
from experiments.translation.ctranslate2 import converted, translator
from experiments.translation.decoding import (
    Ids,
    accelerated,
    alone,
    as_named,
    by_ctranslate2,
    by_transformers,
    in_batches,
)
from experiments.translation.model import load_model, short_enough
from experiments.translation.pieces import MODEL, VOCABULARY, Pieces
from experiments.translation.rescoring import rescored_settings
from experiments.translation.scales import Scale
from experiments.translation.settings import CTRANSLATE2, NONE, TRANSFORMERS, chains, markov, options_of
from outpace.engine.request import Generation

OTHERS = (TRANSFORMERS, CTRANSLATE2)
Way = Callable[[Ids], Ids]
"""To translate one segment."""


class Translator(Subject):
    """A model with the settings that translate with it. Greedy has a target of its own, without taps."""

    def __init__(self, folder: Path, settings: list[Setting], pieces: Pieces, device: str) -> None:
        super().__init__(folder, settings)
        self.pieces = pieces
        self.model = load_model(self.where, device)
        self.fast: list[tuple[Record, Any]] = [(NONE, accelerated(self.model, draft="none"))]
        self.fast += [(one.record, as_named(self.model, **options_of(one, folder))) for one in settings]

    def ways(self) -> list[tuple[Record, Way]]:
        """Everything that is timed."""
        if not (self.where / VOCABULARY).exists():
            self.pieces.save(self.where)  # for the conversion
        other = translator(converted(self.where), threads=torch.get_num_threads())
        ways: list[tuple[Record, Way]] = [(record, partial(alone, fast)) for record, fast in self.fast]
        others: tuple[Way, ...] = (
            lambda source: by_transformers(self.model, source),
            lambda source: by_ctranslate2(other, self.pieces, source),
        )
        return ways + list(zip(OTHERS, others, strict=True))

    def parting(self, source: Ids, tokens: Ids, others: Ids) -> float | None:
        """The margin of two translations of a source."""

        def logits(at: int) -> torch.Tensor:
            ids = torch.tensor([source], device=self.model.device)
            begun = torch.tensor([[self.pieces.pad_id, *tokens[:at]]], device=self.model.device)
            said = self.model(input_ids=ids, decoder_input_ids=begun, use_cache=False)
            last: torch.Tensor = said.logits[0, -1]
            return last

        return self.margin(tokens, others, logits)


def evaluate(
    corpus_folder: Path, folder: Path, scale: Scale, *, command: str = "", device: str = "cpu"
) -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    results = Results(folder / RESULTS, run_record(command, device))
    pieces = Pieces(folder / MODEL)
    if not results.of("corpus"):
        results.add(_corpus_record(corpus_folder, pieces))
    test = short_enough(corpus.read(corpus_folder / "test.tsv"), pieces)[: scale.sentences]
    settings = [
        *chains(scale),
        *rescored_settings(results, corpus_folder, folder, scale, device),
        *markov(scale),
    ]
    subjects = [Translator(folder, some, pieces, device) for some in by_model(settings, folder)]
    sources = pieces.encode([one.source for one in test])
    for subject in subjects:
        subject.describe(results, partial(_size, subject))
    turns = _Turns(results, subjects, sources)
    tasks: list[tuple[str, Callable[[], None]]] = [
        (f"translations by {one.name}", partial(_translate_all, results, one, test, sources))
        for one in subjects
    ]
    timed = range(min(scale.timed, len(test)))
    one_by_one([*tasks, *(("one by one", partial(turns.time, number)) for number in timed)])


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


def _size(subject: Translator) -> Record:
    weights = (weight.numel() for weight in subject.model.parameters() if weight.requires_grad)
    return {"weights": sum(weights)}


def _translate_all(results: Results, subject: Translator, test: list[Segment], sources: list[Ids]) -> None:
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
    subject: Translator,
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
            subject.parting(source, plain.token_ids, one.token_ids)
            for source, one, plain in zip(sources, written, greedy, strict=True)
        ]
        record["margins"] = [margin for margin in margins if margin is not None]
    return record


class _Turns:
    """Segments one by one by all ways of all models, in turns: records of kind "time"."""

    def __init__(self, results: Results, subjects: list[Translator], sources: list[Ids]) -> None:
        self._results, self._subjects, self._sources = results, subjects, sources
        self._has = Counter((record["model"], record["segment"]) for record in results.of("time"))
        self._ways: dict[str, list[tuple[Record, Way]]] = {}

    def time(self, number: int) -> None:
        """What is missing of a segment."""
        missing = [
            one.name for one in self._subjects if self._has[one.name, number] < len(one.fast) + len(OTHERS)
        ]
        if missing and not self._ways:
            self._ways = {subject.name: subject.ways() for subject in self._subjects}
            for some in self._ways.values():
                for _, way in some:
                    way(self._sources[0])  # the first call allocates
        for name in missing:
            self._results.add(*_times(name, self._ways[name], number, self._sources[number]))


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
