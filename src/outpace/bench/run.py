"""Measure drafts against plain decoding: every prompt by every method, one record each.

Methods take turns on each prompt, so that a machine that grows slower in the middle slows them alike. Plain
decoding ("none") is always among them: the others are compared with it, in speed and token for token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from outpace.bench.prompts import Prompt
from outpace.bench.records import Record, RecordFile, generation_record
from outpace.core.errors import PromptTooLong

if TYPE_CHECKING:
    from outpace.api import Model

PLAIN = "none"


def methods_of(drafts: Iterable[str]) -> list[str]:
    """Plain decoding first, then each draft once, in the order given."""
    return list(dict.fromkeys([PLAIN, *drafts]))


def run_bench(
    model: Model,
    prompts: Sequence[Prompt],
    drafts: Iterable[str],
    *,
    name: str,
    max_tokens: int,
    sampling: Mapping[str, Any],
    threads: int | None = None,
    records: RecordFile,
    on_record: Callable[[Record | None], None] = lambda record: None,
) -> tuple[list[Record], list[Prompt]]:
    """Run all methods on all prompts; return the records and the prompts that the context cannot hold.

    What `records` already holds is not run again. `on_record` is called after each generation (with None for
    one that was left out): a place for a progress bar.
    """
    methods = methods_of(drafts)
    done: list[Record] = []
    too_long: list[Prompt] = []
    warm = False
    for prompt in prompts:
        plain: Record | None = None
        for method in methods:
            tags = {
                "model": name,
                "draft": method,
                "sampling": dict(sampling),
                "max_tokens": max_tokens,
                "threads": threads,
                "prompt_id": prompt.prompt_id,
                "category": prompt.category,
                "prompt_digest": prompt.digest,
            }
            record = records.find(tags)
            if record is None:
                if not warm:
                    # Pages of the weights and the threads' first wake-up belong to nobody's time.
                    model.generate(prompt.text[:64], draft=PLAIN, max_tokens=8)
                    warm = True
                try:
                    generation = model.generate(prompt.text, draft=method, max_tokens=max_tokens, **sampling)
                except PromptTooLong:
                    too_long.append(prompt)
                    for _ in methods:
                        on_record(None)
                    break
                record = generation_record(generation, model=name, draft=method, sampling=sampling)
                record |= tags
                record["identical_to_plain"] = plain is None or record["token_ids"] == plain["token_ids"]
                records.append(record)
            if method == PLAIN:
                plain = record
            done.append(record)
            on_record(record)
    return done, too_long
