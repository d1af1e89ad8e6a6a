"""`outpace prepare`: all that can be made for a model in an evening, and what drafts best with it here.

    text     the model writes questions and answers them (`train/self_text.py`); for heads its states are kept
    table    the n-grams of that text, for the draft `backoff`
    heads    Markov heads, trained on these states; needs torch
    measure  plain decoding and the drafts that there are now, in rounds on a small set of prompts, until it
             is clear which is fastest (`bench/race.py`)

Everything lies beside the packed model. A run that was interrupted goes on; what is there is not made again,
only the measuring begins anew, and a table of less text. A second run beside the first is refused.
The fastest draft becomes the one of calls that name none.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from outpace.cli import options, render
from outpace.cli.own_text import count_texts, write_own, written
from outpace.cli.training import check_seed
from outpace.core.contracts import Looped
from outpace.core.errors import OutpaceError
from outpace.drafters.auto import RACERS, at_hand
from outpace.files.alone import alone_at
from outpace.heads.markov_heads import METHOD
from outpace.progress import progress_bar

if TYPE_CHECKING:
    from outpace.bench.report import Row
    from outpace.models.text import Model
    from outpace.train.jobs_markov import MarkovJob

CLEARLY = 1.02  # times the speed of prompt lookup: less is no reason for another draft
MEASURED = 64  # tokens of each answer
MOST_ROUNDS = 6
LONGEST_S = 1800.0  # no round of measuring begins later
TOKENS, OF_A_TABLE = 400_000, 100_000  # of a text for heads, and for a table alone
COUNTED = "counted.json"  # which text prepare's own table is of


def prepare(
    model: options.Model = options.DEFAULT_MODEL,
    tokens: Annotated[
        int | None,
        typer.Option(
            "--tokens",
            metavar="N",
            help=f"Answer tokens that the model writes.  [default: {TOKENS}; {OF_A_TABLE} for a table alone]",
        ),
    ] = None,
    steps: Annotated[
        int,
        typer.Option("--steps", metavar="N", help="Batches to train heads on; 0 for none, a table alone."),
    ] = 5000,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Make drafts for a model: its own text, a table of it, trained heads; and measure which are fastest.

    The bar shows how long a part still takes. A run that was stopped goes on with the same command. Measuring
    takes rounds until it is clear which draft is fastest; none begins after half an hour.
    """
    from outpace.train.self_text import OWN_TEXT

    if (tokens is not None and tokens < 1) or steps < 0:
        raise OutpaceError("--tokens must be 1 or more, --steps 0 or more")
    check_seed(seed, threads)
    if steps and find_spec("torch") is None:
        render.note("heads are left out: training needs the extra torch (pip install 'outpace[torch]')")
        steps = 0
    if tokens is None:
        tokens = TOKENS if steps else OF_A_TABLE
    loaded = render.load_model(model, threads=threads)
    if isinstance(loaded.target, Looped) and loaded.target.num_loops > 1:
        raise OutpaceError(f"{model} is a looped model, which drafts for itself (speed), accepted are others")
    text = loaded.beside(OWN_TEXT)
    with alone_at(text):
        if steps:
            _claim_heads(loaded, tokens, seed)
        job = _job(loaded, model, text, tokens, steps, seed, threads) if steps else None
        _count(loaded, text, _write(loaded, text, tokens, seed, job))
        if steps:
            _train(loaded.beside(METHOD), job)
        best, rows = _measure(loaded, model, at_hand(RACERS, loaded.new_drafter), threads)
        _choose(loaded, best, rows)


def _claim_heads(model: Model, tokens: int, seed: int) -> None:
    """Refuse a text of another length than the heads' own, before the hours that it takes."""
    from outpace.train.origin import ORIGIN, claim

    folder = model.beside(METHOD)
    try:
        claim(folder / ORIGIN, {"tokens": tokens, "seed": seed}, begun=False)
    except OutpaceError as error:
        raise _kept(error, folder) from None


def _kept(error: OutpaceError, folder: Path) -> OutpaceError:
    return OutpaceError(f"{error}; to train heads anew, remove {folder}")


def _write(model: Model, path: Path, tokens: int, seed: int, job: MarkovJob | None) -> int:
    """How many tokens the text has. With a job its states are kept, by a model of its own: taps take time."""
    from outpace.core.sampling import Sampling
    from outpace.train.self_text import batch_for

    answers = Sampling(seed=seed)
    with progress_bar() as progress:
        if job is not None:
            job.record(progress)
            done, _ = written(path)
        else:
            batch = batch_for(model.target)
            done = write_own(model, path, tokens, batch=batch, answers=answers, seed=seed, progress=progress)
    print(f"text: {done} tokens of its own, {path}")
    return done


def _count(model: Model, text: Path, tokens: int) -> None:
    from outpace.drafters.lookup.backoff import FILE_NAME
    from outpace.files.whole import write_whole

    path, note = model.beside(FILE_NAME), model.beside(COUNTED)
    if path.exists() and _counted(path, note) in (None, tokens):
        print(f"table: there since before; to count anew, remove {path}")
        return
    with progress_bar() as progress:
        counted = count_texts(path, [text], model.tokenizer, model.target.vocab_size, progress)
    made = {"tokens": tokens, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    write_whole(note, (json.dumps(made) + "\n").encode())
    print(f"table: {counted}")


def _counted(table: Path, note: Path) -> int | None:
    """Of how many tokens a table is; None for one that may be of texts that somebody has chosen."""
    from outpace.files.json_files import json_file

    try:
        made = json_file(note)
        ours = made.get("sha256") == hashlib.sha256(table.read_bytes()).hexdigest()
    except (OutpaceError, OSError):
        return None
    tokens = made.get("tokens")
    return tokens if ours and type(tokens) is int else None


def _job(
    model: Model, name: str, text: Path, tokens: int, steps: int, seed: int, threads: int | None
) -> MarkovJob | None:
    """The heads' training; None where it is finished."""
    from outpace.train.checkpoint import read_run
    from outpace.train.jobs_markov import MarkovJob
    from outpace.train.precision import Precision, faster_precision

    folder = model.beside(METHOD)
    begun = read_run(folder) or {}
    if "finished" in begun:
        return None
    # What is measured or written in several ways stays as it was when the training began.
    before = begun.get("settings", {})
    called, precision = before.get("model"), before.get("precision")
    if precision not in get_args(Precision):  # of a note that somebody has changed: refused by the training
        precision = faster_precision("cpu")
    return MarkovJob(
        name, folder, taps=None, length=4, width=1536, rank=128, tokens=4096, steps=steps, segments=16,
        lr=2e-3, precision=precision, checkpoint_s=120.0, seed=seed, threads=threads, own_text=tokens,
        name=called if isinstance(called, str) else None, text=text,
    )  # fmt: skip


def _train(folder: Path, job: MarkovJob | None) -> None:
    from outpace.train.examples import FEATURES

    if job is None:
        print(f"heads: there since before; to train them anew, remove {folder}")
    else:
        try:
            with progress_bar() as progress:
                job.run([], progress)
        except OutpaceError as error:
            raise _kept(error, folder) from None
        print(f"heads: trained in {job.steps} steps")
    shutil.rmtree(folder / FEATURES, ignore_errors=True)  # gigabytes


def _measure(model: Model, name: str, drafts: Sequence[str], threads: int | None) -> tuple[str, list[Row]]:
    """The draft that wins, and a row for each one, over all prompts and all rounds that it was in."""
    from outpace.bench.prompts import BUILTIN, read_prompts
    from outpace.bench.race import race
    from outpace.bench.records import Record, RecordFile, decode_s
    from outpace.bench.report import OVERALL, format_summary, summarise
    from outpace.bench.run import run_bench
    from outpace.models.method import Method

    prompts, measured = read_prompts(BUILTIN), list[Record]()

    def measure(number: int, left: Sequence[str]) -> dict[str, list[float]]:
        # Every round has drafters of its own: those that remember would copy the last round's answers. What
        # they learn in a round, and who comes behind whom, is mixed anew.
        first = number % len(left)
        methods = [Method(draft) for draft in (*left[first:], *left[:first])]
        ordered = Random(number).sample(prompts, len(prompts)) if number else prompts
        with RecordFile(None) as records, progress_bar() as progress:
            shown = progress or (lambda done, total, label: None)
            found, _ = run_bench(
                model,
                ordered,
                methods,
                name=name,
                max_tokens=MEASURED,
                sampling={},
                threads=threads,
                records=records,
                progress=lambda done, total, label: shown(
                    done, total, f"{label}, round {number + 1} of at most {MOST_ROUNDS}"
                ),
            )
        measured.extend(record | {"round": number} for record in found)
        found = sorted(found, key=lambda record: str(record["prompt_digest"]))
        return {draft: [decode_s(record) for record in found if record["draft"] == draft] for draft in left}

    best, rounds = race(drafts, measure, margin=CLEARLY, most_rounds=MOST_ROUNDS, longest_s=LONGEST_S)
    rows = summarise(measured)
    print(format_summary(rows))
    num_prompts = len({record["prompt_digest"] for record in measured})
    print(f"rounds: {rounds}, of {num_prompts} prompts each; drafts that were surely behind left early")
    return best, [row for row in rows if row.category == OVERALL]


def _choose(model: Model, best: str, rows: Sequence[Row]) -> None:
    from outpace.drafters.auto import FILE_NAME, write_prepared

    if any(row.identical_share < 1 for row in rows):
        raise OutpaceError("a draft has changed the text, which no draft may: nothing was chosen")
    times = {row.method.draft: round(row.ratio or 0.0, 3) for row in rows}
    write_prepared(model.beside(FILE_NAME), best, times)
    print(f"from now on, where no draft is named: {best}")
