"""What every kind of heads drafts, and what is kept of it: each prompt is answered in all ways, in turns.

kind "run"    a command that measured: hardware, versions, date
kind "heads"  a kind of heads: its weights, and steps and minutes of its training
kind "text"   an answer in one way: tokens, calls, drafts, what was tried and kept by depth, seconds
kind "long"   a long answer in one way: tokens and calls of each window

A way is a list: the drafter ("none" for lookups alone), its shape (its own if ""), what is mixed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import outpace
from experiments.heads.scales import Scale
from experiments.heads.trainings import HEADS, KINDS, count_table
from experiments.kit.results import RESULTS, Record, Results, run_record
from experiments.kit.trainings import duration_of
from outpace.bench.prompts import Prompt as Asked
from outpace.core.call import Prompt
from outpace.core.contracts import Drafter
from outpace.core.sampling import Sampling
from outpace.drafters.none import NoDraft
from outpace.engine.generate import events
from outpace.engine.request import Request
from outpace.heads.folder import WEIGHTS
from outpace.models.text import Model
from outpace.progress import progress_bar
from outpace.rules.match import Match

CHAIN, TREE, LEARNT, OWN = "chain", "tree", "learnt", ""
NGRAM, TABLE = "ngram", "ngram+backoff"
Way = tuple[str, str, str]
PLAIN: Way = ("none", OWN, "")


def ways_of(folder: Path, table: Path, scale: Scale) -> dict[Way, dict[str, Any]]:
    """All that is compared but plain decoding: options of `new_drafter` by way."""
    chain = f"chain:length={scale.ahead}"
    tree = f"dynamic:size={scale.nodes},k=4,depth={scale.ahead}"
    # Heads run once or for little a level: a tenth of what a draft model's level is taken to cost.
    learnt = f"survival:beta=auto,k=4,depth={scale.ahead},draft_cost=0.03"
    backoff = f"[backoff:path={table}]"
    found: dict[Way, dict[str, Any]] = {}
    for kind in KINDS:
        heads = f"{kind.name}:path={folder / HEADS / kind.name}"
        found[kind.name, CHAIN, ""] = {"draft": heads, "tree": chain}
        found[kind.name, TREE, ""] = {"draft": heads, "tree": tree}
        found[kind.name, LEARNT, ""] = {"draft": heads, "tree": learnt}
        found[kind.name, OWN, ""] = {"draft": heads}
        found[kind.name, OWN, NGRAM] = {"draft": f"mix:drafts=ngram+[{heads}]"}
        found[kind.name, OWN, TABLE] = {"draft": f"mix:drafts=ngram+{backoff}+[{heads}]"}
    found["none", OWN, NGRAM] = {"draft": "ngram"}
    found["none", OWN, TABLE] = {"draft": f"mix:drafts=ngram+{backoff}"}
    return found


def evaluate(name: str, folder: Path, asked: Sequence[Asked], scale: Scale, *, command: str) -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    results = Results(folder / RESULTS, run_record(command, "cpu"))
    for kind in KINDS:
        if not results.of("heads", name=kind.name):
            where = folder / HEADS / kind.name
            size = (where / WEIGHTS).stat().st_size
            results.add({"kind": "heads", "name": kind.name, "bytes": size, **duration_of(where)})
    texts = [number for number in range(len(asked)) if not results.of("text", number=number)]
    longs = [
        number
        for number in range(min(scale.long_prompts, len(asked)))
        if not results.of("long", number=number)
    ]
    if not texts and not longs:
        return
    with outpace.load(name) as model, progress_bar() as progress:
        ways = ways_of(folder, count_table(model, folder), scale)
        drafters: dict[Way, Drafter] = {PLAIN: NoDraft()}
        drafters |= {way: model.new_drafter(**options) for way, options in ways.items()}
        long = {way: one for way, one in drafters.items() if way[1:] == (CHAIN, "")}
        for done, number in enumerate([*texts, *longs]):
            if progress is not None:
                progress(done, len(texts) + len(longs), asked[number].category)
            if done < len(texts):
                results.add(*_answers(model, drafters, asked[number], number, scale))
            else:
                results.add(*_long_answers(model, long, asked[number], number, scale))


def _answers(
    model: Model, drafters: dict[Way, Drafter], asked: Asked, number: int, scale: Scale
) -> list[Record]:
    prompt, plain, records = Prompt(model.prompt_ids(asked.text)), [0], []
    for way, drafter in drafters.items():
        made = model.generate(prompt, draft=drafter, max_tokens=scale.tokens)
        assert not isinstance(made, list), "one text of one prompt"
        plain = made.token_ids if way == PLAIN else plain
        stats = made.stats
        records.append(
            {
                "kind": "text",
                "number": number,
                "category": asked.category,
                "way": [*way],
                "tokens": stats.completion_tokens - stats.first_tokens,
                "calls": stats.target_calls,
                "drafted": stats.num_drafted,
                "tried": stats.num_tried_at,
                "kept": stats.num_kept_at,
                "seconds": round(stats.wall_s - stats.time_to_first_token_s, 5),
                "draft_s": round(stats.draft_s, 5),
                "same": made.token_ids == plain,
            }
        )
    return records


def _long_answers(
    model: Model, drafters: dict[Way, Drafter], asked: Asked, number: int, scale: Scale
) -> list[Record]:
    """As many tokens as there are to be, whether the model would have ended or not."""
    ids, records = model.prompt_ids(asked.text), []
    for way, drafter in drafters.items():
        request = Request(ids, Sampling(), scale.long, eos_ids=frozenset())
        windows: list[list[int]] = []
        written = 0
        for found in events(model.target, drafter, Match(), [request]):
            place = written // scale.window
            windows += [[0, 0] for _ in range(place + 1 - len(windows))]
            windows[place][0] += len(found[0].tokens)
            windows[place][1] += 1
            written += len(found[0].tokens)
        records.append({"kind": "long", "number": number, "way": [*way], "windows": windows})
    return records
