"""`outpace prepare`: all that can be made for a model in an evening, and what drafts best with it here.

    text     the model writes questions and answers them (`train/self_text.py`)
    table    the n-grams of that text, for the draft `backoff`
    heads    Markov heads, trained on the model's states over it; needs torch
    measure  plain decoding and the drafts that there are now, in turns on a small set of prompts

Everything lies beside the packed model. A run that was interrupted goes on; what is there is not made again.
A second run beside the first is refused.
The fastest draft becomes the one of calls that name none.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli import options, render
from outpace.cli.own_text import count_texts, write_own
from outpace.cli.training import check_seed
from outpace.core.contracts import Looped
from outpace.core.errors import OutpaceError
from outpace.files.alone import alone_at
from outpace.progress import progress_bar

if TYPE_CHECKING:
    from outpace.bench.report import Row
    from outpace.models.text import Model

CLEARLY = 1.02  # times the speed of prompt lookup: less is no reason for another draft
MEASURED = 64  # tokens of each answer


def prepare(
    model: options.Model = options.DEFAULT_MODEL,
    tokens: Annotated[
        int, typer.Option("--tokens", metavar="N", help="Answer tokens that the model writes.")
    ] = 400_000,
    steps: Annotated[
        int,
        typer.Option("--steps", metavar="N", help="Batches to train heads on; 0 for none, a table alone."),
    ] = 5000,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Make drafts for a model: its own text, a table of it, trained heads; and measure which are fastest.

    The bar shows how long a part still takes. A run that was stopped goes on with the same command.
    """
    from outpace.train.self_text import OWN_TEXT

    if tokens < 1 or steps < 0:
        raise OutpaceError("--tokens must be 1 or more, --steps 0 or more")
    check_seed(seed, threads)
    if steps and find_spec("torch") is None:
        render.note("heads are left out: training needs the extra torch (pip install 'outpace[torch]')")
        steps = 0
    loaded = render.load_model(model, threads=threads)
    if isinstance(loaded.target, Looped) and loaded.target.num_loops > 1:
        raise OutpaceError(f"{model} is a looped model, which drafts for itself (speed), accepted are others")
    text = loaded.beside(OWN_TEXT)
    with alone_at(text):
        _write(loaded, text, tokens, seed)
        _count(loaded, text)
        if steps:
            _train(loaded, model, text, steps, seed, threads)
        rows = _measure(loaded, model, _drafts(loaded), threads)
        _choose(loaded, rows)


def _write(model: Model, path: Path, tokens: int, seed: int) -> None:
    from outpace.core.sampling import Sampling
    from outpace.train.self_text import batch_for

    answers = Sampling(seed=seed)
    with progress_bar() as progress:
        batch = batch_for(model.target)
        done = write_own(model, path, tokens, batch=batch, answers=answers, seed=seed, progress=progress)
    print(f"text: {done} tokens of its own, {path}")


def _count(model: Model, text: Path) -> None:
    from outpace.drafters.lookup.backoff import FILE_NAME

    path = model.beside(FILE_NAME)
    if path.exists():  # it may be of texts that somebody has chosen
        print(f"table: there since before; to count anew, remove {path}")
        return
    with progress_bar() as progress:
        counted = count_texts(path, [text], model.tokenizer, model.target.vocab_size, progress)
    print(f"table: {counted}")


def _train(model: Model, name: str, text: Path, steps: int, seed: int, threads: int | None) -> None:
    from outpace.files.json_files import json_file
    from outpace.heads.markov_heads import METHOD
    from outpace.train.checkpoint import RUN
    from outpace.train.data import read_pairs
    from outpace.train.examples import FEATURES
    from outpace.train.jobs_markov import MarkovJob
    from outpace.train.precision import faster_precision

    folder = model.beside(METHOD)
    begun = json_file(folder / RUN) if (folder / RUN).exists() else {}
    if "finished" not in begun:
        # What is measured or written in several ways stays as it was when the training began.
        before = begun.get("settings", {})
        job = MarkovJob(
            name, folder, taps=None, length=4, width=1536, rank=128, tokens=4096, steps=steps, segments=16,
            lr=2e-3, precision=before.get("precision") or faster_precision("cpu"), checkpoint_s=120.0,
            seed=seed, threads=threads, own_text=0, name=before.get("model"),
        )  # fmt: skip
        try:
            with progress_bar() as progress:
                job.run(read_pairs([text]), progress)
        except OutpaceError as error:
            raise OutpaceError(f"{error}; to train heads anew, remove {folder}") from None
        print(f"heads: trained in {steps} steps")
    else:
        print(f"heads: there since before; to train them anew, remove {folder}")
    shutil.rmtree(folder / FEATURES, ignore_errors=True)  # gigabytes


def _drafts(model: Model) -> list[str]:
    """What there is to choose from."""
    from outpace.heads.markov_heads import METHOD
    from outpace.heads.packaged import find_packaged_heads, own_heads

    drafts = ["ngram", "mix:drafts=ngram+suffix", "mix:drafts=ngram+backoff"]
    if own_heads(model.beside, METHOD) or find_packaged_heads(model.target, METHOD):
        drafts += ["mix:drafts=ngram+markov_heads", "mix:drafts=ngram+backoff+markov_heads"]
    return drafts


def _measure(model: Model, name: str, drafts: Sequence[str], threads: int | None) -> list[Row]:
    """A row for each draft, over all prompts."""
    from outpace.bench.prompts import BUILTIN, read_prompts
    from outpace.bench.records import RecordFile
    from outpace.bench.report import OVERALL, format_summary, summarise
    from outpace.bench.run import run_bench
    from outpace.models.method import Method

    with RecordFile(None) as records, progress_bar() as progress:
        measured, _ = run_bench(
            model,
            read_prompts(BUILTIN),
            [Method(draft) for draft in drafts],
            name=name,
            max_tokens=MEASURED,
            sampling={},
            threads=threads,
            records=records,
            progress=progress or (lambda done, total, label: None),
        )
    rows = summarise(measured)
    print(format_summary(rows))
    return [row for row in rows if row.category == OVERALL]


def _choose(model: Model, rows: Sequence[Row]) -> None:
    from outpace.drafters.auto import FILE_NAME, write_prepared

    if any(row.identical_share < 1 for row in rows):
        raise OutpaceError("a draft has changed the text, which no draft may: nothing was chosen")
    times = {row.method.draft: round(row.ratio or 0.0, 3) for row in rows}
    best = max(times, key=times.__getitem__)
    if times[best] < CLEARLY * times["ngram"]:
        best = "ngram"
    write_prepared(model.beside(FILE_NAME), best, times)
    print(f"from now on, where no draft is named: {best}")
