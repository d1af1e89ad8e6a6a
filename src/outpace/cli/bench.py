"""`outpace bench`: methods against plain decoding over a file of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli import options, render
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar


def bench(
    model: options.Model = options.DEFAULT_MODEL,
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="JSON lines with category and turns, or one prompt a line; left out: a small set.",
        ),
    ] = None,
    draft: options.Drafts = None,
    every: Annotated[
        bool, typer.Option("--all", help="Measure auto and all drafts that there are for the model.")
    ] = False,
    tree: options.Tree = None,
    rule: options.Rule = "match",
    max_tokens: options.MaxTokens = 128,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="The first N prompts of each category.")
    ] = None,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
    rows: Annotated[
        int, typer.Option("--rows", metavar="N", help="Prompts of a category that run side by side.")
    ] = 1,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats", metavar="N", help="Rounds of everything, with new drafters; a ratio is their median."
        ),
    ] = 1,
    summary: Annotated[
        bool,
        typer.Option("--summary", help="One line per method: over all, and the category where it is worst."),
    ] = False,
    depths: Annotated[
        bool, typer.Option("--depths", help="Also how often drafts are right, by their depth.")
    ] = False,
    records: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="OUT.jsonl",
            help="Append one record per prompt and method; what is there is not run again.",
        ),
    ] = None,
) -> int:
    """Measure methods against plain decoding.

    Prints, by category and over all: speed, ratio to plain decoding, tokens accepted and drafted per call,
    where the time went, and whether the tokens are identical.
    """
    from outpace.bench.prompts import BUILTIN, read_prompts
    from outpace.bench.records import RecordFile
    from outpace.bench.report import format_best, format_depths, format_report, format_summary, summarise
    from outpace.bench.run import run_bench
    from outpace.drafters.auto import ALONE, RACERS, at_hand
    from outpace.models.method import Method

    if every and tree is not None:
        raise OutpaceError("--all measures drafts as they are, accepted is --tree with --draft alone")
    named = draft or ([] if every else ["ngram"])
    methods = [options.method_option(text, tree, rule) for text in named]
    sampling = options.sampling_options(temperature, top_k, top_p, min_p, seed)
    chosen = read_prompts(prompts or BUILTIN, limit=limit)
    with RecordFile(records) as file:
        loaded = render.load_model(model, threads=threads)
        if not draft and not every:
            methods = [options.with_own_draft(methods[0], loaded, None)]
        if every:
            found = at_hand((*RACERS, *ALONE), loaded.new_drafter)
            methods = [*methods, *(Method(name, rule=rule) for name in ("auto", *found))]
        with progress_bar() as progress:
            measured, too_long = run_bench(
                loaded,
                chosen,
                methods,
                name=model,
                max_tokens=max_tokens,
                sampling=sampling,
                threads=threads,
                rows=rows,
                rounds=repeats,
                records=file,
                progress=progress or (lambda done, total, label: None),
            )
    lines = summarise(measured)
    print(format_summary(lines) if summary else format_report(lines))
    if table := format_best(lines):
        print(f"\n{table}")
    if depths and (table := format_depths(lines)):
        print(f"\n{table}")
    if too_long:
        print(f"\nleft out, longer than the context: {', '.join(prompt.prompt_id for prompt in too_long)}")
    broken = any(
        not record["identical_to_plain"] and record["exactness"] == "identical" for record in measured
    )
    return 1 if broken else 0
