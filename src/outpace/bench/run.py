"""Measure methods against plain decoding: every prompt by every method, one record each.

Methods take turns on each prompt, so that a machine that grows slower in the middle slows them alike. Plain
decoding is always among them: the others are compared with it, in speed and token for token. Each has a
drafter of its own, so that none learns from what another has just generated for the same prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from outpace.bench.prompts import Prompt
from outpace.bench.records import Record, RecordFile, generation_record
from outpace.core.errors import PromptTooLong
from outpace.decode.pairing import check_pairing
from outpace.models.method import Method
from outpace.rules import RULES

if TYPE_CHECKING:
    from outpace.core.contracts import Drafter
    from outpace.models.text import Model

PLAIN = Method("none")
WARM_UP = "Name three colours."


def run_bench(
    model: Model,
    prompts: Sequence[Prompt],
    methods: Iterable[Method],
    *,
    name: str,
    max_tokens: int,
    sampling: Mapping[str, Any],
    threads: int | None = None,
    records: RecordFile,
    progress: Callable[[int, int, str], None] = lambda done, total, label: None,
) -> tuple[list[Record], list[Prompt]]:
    """Run all methods on all prompts; return the records and the prompts that the context cannot hold.

    What `records` already holds is not run again. `progress` is called with (done, total, label). Methods
    that cannot work with this model raise an OutpaceError before anything is measured.
    """
    methods = list(dict.fromkeys([PLAIN, *methods]))
    total = len(prompts) * len(methods)
    progress(0, total, "preparing")
    drafters = {method: _drafter(model, method) for method in methods}
    done: list[Record] = []
    too_long: list[Prompt] = []
    warm: set[Method] = set()
    for number, prompt in enumerate(prompts):
        plain: Record | None = None
        for place, method in enumerate(methods):
            progress(number * len(methods) + place, total, "measuring")
            tags = {
                "model": name,
                "draft": method.draft,
                "tree": method.tree,
                "rule": method.rule,
                "sampling": dict(sampling),
                "max_tokens": max_tokens,
                "threads": threads,
                "prompt_id": prompt.prompt_id,
                "category": prompt.category,
                "prompt_digest": prompt.digest,
            }
            record = records.find(tags)
            if record is None:
                drafted: dict[str, Any] = {"draft": drafters[method], "rule": method.rule}
                if method not in warm:
                    # Pages of the weights and the threads' first wake-up belong to nobody's time.
                    model.generate(WARM_UP, max_tokens=8, **drafted)
                    warm.add(method)
                try:
                    generation = model.generate(prompt.text, max_tokens=max_tokens, **drafted, **sampling)
                except PromptTooLong:
                    too_long.append(prompt)
                    break
                record = generation_record(generation, model=name, method=method, sampling=sampling) | tags
                record["identical_to_plain"] = plain is None or record["token_ids"] == plain["token_ids"]
                records.append(record)
            if method == PLAIN:
                plain = record
            done.append(record)
    progress(total, total, "measuring")
    return done, too_long


def _drafter(model: Model, method: Method) -> Drafter:
    drafter = model.new_drafter(method.draft, tree=method.tree)
    check_pairing(model.target, drafter, RULES.create(method.rule))
    return drafter
