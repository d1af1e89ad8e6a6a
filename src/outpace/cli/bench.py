"""`outpace bench`: drafts against plain decoding over a file of prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli import options, render


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
    draft: Annotated[
        list[str] | None,
        typer.Option(
            "--draft", metavar="METHOD", help=options.DRAFT_HELP + " May be repeated; none always runs."
        ),
    ] = None,
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
    records: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="OUT.jsonl",
            help="Append one record per prompt and method; what is there is not run again.",
        ),
    ] = None,
) -> int:
    """Measure drafts against plain decoding.

    Prints, by category and over all: speed, ratio to plain decoding, mean accepted length, and whether the
    tokens are identical.
    """
    from outpace.bench.prompts import BUILTIN, read_prompts
    from outpace.bench.records import RecordFile
    from outpace.bench.report import format_report, summarise
    from outpace.bench.run import methods_of, run_bench

    drafts = draft or ["ngram"]
    for method in drafts:
        options.check_draft(method)
    sampling = options.sampling_options(temperature, top_k, top_p, min_p, seed)
    chosen = read_prompts(prompts or BUILTIN, limit=limit)
    with RecordFile(records) as file:
        loaded = render.load_model(model, threads=threads)
        with render.progress_bar() as progress:
            done = 0
            total = len(chosen) * len(methods_of(drafts))

            def on_record(record: object) -> None:
                nonlocal done
                done += 1
                if progress is not None:
                    progress(done, total, "measuring")

            measured, too_long = run_bench(
                loaded,
                chosen,
                drafts,
                name=model,
                max_tokens=max_tokens,
                sampling=sampling,
                threads=threads,
                records=file,
                on_record=on_record,
            )
    rows = summarise(measured)
    print(format_report(rows))
    if too_long:
        print(f"\nleft out, longer than the context: {', '.join(prompt.prompt_id for prompt in too_long)}")
    broken = any(
        not record["identical_to_plain"] and record["exactness"] == "identical" for record in measured
    )
    return 1 if broken else 0
