"""Measure methods against plain decoding: every prompt by every method, one record each.

Methods take turns on each prompt, so that a machine that grows slower in the middle slows them alike. Plain
decoding is always among them: the others are compared with it, in speed and token for token. Each has a
drafter of its own, so that none learns from what another has just generated for the same prompt.

With several rows the prompts of a category run side by side, so many at a time: a record's speed is that of
one of them, beside the others. Every round measures everything again with new drafters: those of the round
before have seen the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from outpace.bench.prompts import Prompt
from outpace.bench.records import Record, RecordFile, generation_record
from outpace.core.options import whole
from outpace.decode.pairing import check_pairing
from outpace.models.method import Method
from outpace.rules import RULES

if TYPE_CHECKING:
    from outpace.core.contracts import Drafter
    from outpace.models.text import Model

PLAIN = Method("none")
WARM_UP = "Name three colours."
MOST_ROWS = 256
MOST_ROUNDS = 1000


def run_bench(
    model: Model,
    prompts: Sequence[Prompt],
    methods: Iterable[Method],
    *,
    name: str,
    max_tokens: int,
    sampling: Mapping[str, Any],
    threads: int | None = None,
    rows: int = 1,
    rounds: int = 1,
    records: RecordFile,
    progress: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> tuple[list[Record], list[Prompt]]:
    """Run all methods on all prompts; return the records and the prompts that the context cannot hold.

    What `records` already holds is not run again. `progress` is called with (done, total, label). Methods
    that cannot work with this model raise an OutpaceError before anything is measured.
    """
    methods, rows = list(dict.fromkeys([PLAIN, *methods])), whole("rows", rows, 1, MOST_ROWS)
    rounds = whole("repeats", rounds, 1, MOST_ROUNDS)
    longest = model.target.context_length
    too_long = [prompt for prompt in prompts if len(model.prompt_ids(prompt.text)) > longest]
    groups = list(_side_by_side([prompt for prompt in prompts if prompt not in too_long], rows))
    total, done = rounds * sum(map(len, groups)) * len(methods), list[Record]()
    tags = {"model": name, "max_tokens": max_tokens, "threads": threads, "rows": rows}
    measuring = _Measuring(model, tags, sampling, records)
    progress(0, total, "preparing")
    for number in range(rounds):
        drafters = {method: _drafter(model, method) for method in methods}
        for together in groups:
            plain: list[Record] | None = None
            for method, drafter in drafters.items():
                progress(len(done), total, "measuring")
                these = measuring.of(together, number, method, drafter, plain)
                plain = plain or these
                done += these
    progress(total, total, "measuring")
    return done, too_long


class _Measuring:
    """What all measurements of a run share; `tags` say in their records what that is."""

    def __init__(
        self, model: Model, tags: Mapping[str, Any], sampling: Mapping[str, Any], records: RecordFile
    ) -> None:
        self._model = model
        self._tags = tags
        self._sampling = dict(sampling)
        self._records = records
        self._warm: set[Method] = set()

    def of(
        self,
        together: Sequence[Prompt],
        number: int,
        method: Method,
        drafter: Drafter,
        plain: Sequence[Record] | None,
    ) -> list[Record]:
        """Records of prompts side by side in a round; `plain`: those of plain decoding, if not these."""
        tags = {
            **self._tags,
            "draft": method.draft,
            "tree": method.tree,
            "rule": method.rule,
            "sampling": self._sampling,
            "round": number,
        }
        about = [tags | _about(prompt) for prompt in together]
        found = [self._records.find(one) for one in about]
        if None in found:
            for place, record in enumerate(self._generated(together, method, drafter)):
                record |= about[place]
                twin = record if plain is None else plain[place]
                record["identical_to_plain"] = record["token_ids"] == twin["token_ids"]
                if found[place] is None:
                    found[place] = record
                    self._records.append(record)
        return [record for record in found if record is not None]

    def _generated(self, together: Sequence[Prompt], method: Method, drafter: Drafter) -> Iterator[Record]:
        drafted: dict[str, Any] = {"draft": drafter, "rule": method.rule}
        if method not in self._warm:
            # Pages of the weights and the threads' first wake-up belong to nobody's time.
            self._model.generate(WARM_UP, max_tokens=8, **drafted)
            self._warm.add(method)
        texts, most = [prompt.text for prompt in together], self._tags["max_tokens"]
        for one in self._model.generate(texts, max_tokens=most, **drafted, **self._sampling):
            yield generation_record(one, model=self._tags["model"], method=method, sampling=self._sampling)


def _side_by_side(prompts: Sequence[Prompt], rows: int) -> Iterator[Sequence[Prompt]]:
    """At most so many neighbours of one category at a time."""
    for _, of_category in groupby(prompts, key=lambda prompt: prompt.category):
        members = list(of_category)
        yield from (members[at : at + rows] for at in range(0, len(members), rows))


def _about(prompt: Prompt) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "category": prompt.category,
        "prompt_digest": prompt.digest,
    }


def _drafter(model: Model, method: Method) -> Drafter:
    drafter = model.new_drafter(method.draft, tree=method.tree)
    check_pairing(model.target, drafter, RULES.create(method.rule))
    return drafter
