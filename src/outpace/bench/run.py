"""Measure methods against plain decoding: every prompt by every method, one record each.

Methods take turns on each prompt, so that a machine that grows slower in the middle slows them alike. Plain
decoding is always among them: the others are compared with it, in speed and token for token. Each has a
drafter of its own, so that none learns from what another has just generated for the same prompt.

With several rows the prompts of a category run side by side, so many at a time: a record's speed is that of
one of them, beside the others.
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
    records: RecordFile,
    progress: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> tuple[list[Record], list[Prompt]]:
    """Run all methods on all prompts; return the records and the prompts that the context cannot hold.

    What `records` already holds is not run again. `progress` is called with (done, total, label). Methods
    that cannot work with this model raise an OutpaceError before anything is measured.
    """
    methods, rows = list(dict.fromkeys([PLAIN, *methods])), whole("rows", rows, 1, MOST_ROWS)
    longest = model.target.context_length
    too_long = [prompt for prompt in prompts if len(model.prompt_ids(prompt.text)) > longest]
    prompts = [prompt for prompt in prompts if prompt not in too_long]
    total, done = len(prompts) * len(methods), list[Record]()
    progress(0, total, "preparing")
    drafters = {method: _drafter(model, method) for method in methods}
    warm: set[Method] = set()
    for together in _side_by_side(prompts, rows):
        plain: list[Record] | None = None
        for method in methods:
            progress(len(done), total, "measuring")
            drafted: dict[str, Any] = {"draft": drafters[method], "rule": method.rule}
            tags = {
                "model": name,
                "draft": method.draft,
                "tree": method.tree,
                "rule": method.rule,
                "sampling": dict(sampling),
                "max_tokens": max_tokens,
                "threads": threads,
                "rows": rows,
            }
            about = [tags | _about(prompt) for prompt in together]
            found = [records.find(one) for one in about]
            if None in found:
                if method not in warm:
                    # Pages of the weights and the threads' first wake-up belong to nobody's time.
                    model.generate(WARM_UP, max_tokens=8, **drafted)
                    warm.add(method)
                texts = [prompt.text for prompt in together]
                made = model.generate(texts, max_tokens=max_tokens, **drafted, **sampling)
                for place, generation in enumerate(made):
                    record = generation_record(generation, model=name, method=method, sampling=sampling)
                    record |= about[place]
                    twin = record if plain is None else plain[place]
                    record["identical_to_plain"] = record["token_ids"] == twin["token_ids"]
                    if found[place] is None:
                        found[place] = record
                        records.append(record)
            these = [record for record in found if record is not None]
            plain = plain or these
            done += these
    progress(total, total, "measuring")
    return done, too_long


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
