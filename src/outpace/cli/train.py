"""`outpace train`: drafters that are trained for one model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from outpace.cli import options
from outpace.cli.training import (
    GOES_ON,
    CheckpointSeconds,
    Data,
    HeadsOutput,
    LearningRate,
    Output,
    OwnText,
    PrecisionOption,
    Steps,
    Target,
    Tokens,
    TokensOrAll,
    check_seed,
    check_source,
    finite_rate,
    needs_torch,
    own_pairs,
)
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar

app = options.group("Train drafters for a model.")


@app.command("blockwise")
def blockwise(
    output: HeadsOutput,
    data: Data = None,
    own_text: OwnText = 0,
    target: Target = options.DEFAULT_MODEL,
    regime: Annotated[
        Literal["frozen", "finetuned"],
        typer.Option(
            "--regime", metavar="R", help="frozen: the heads alone; finetuned: the model with them."
        ),
    ] = "frozen",
    data_regime: Annotated[
        Literal["gold", "distilled"],
        typer.Option(
            "--data-regime", metavar="R", help="gold: outputs as they are; distilled: those of the teacher."
        ),
    ] = "gold",
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", metavar="MODEL", help="Who writes distilled outputs; the target if left out."
        ),
    ] = None,
    heads: Annotated[int, typer.Option("--heads", metavar="K", help="How many, head 1 included.")] = 4,
    width: Annotated[
        int | None, typer.Option("--width", metavar="N", help="Hidden units per head; the model's width.")
    ] = None,
    first: Annotated[
        Literal["identity", "learned"],
        typer.Option("--first", metavar="F", help="Head 1: identity, or learned (changes the output)."),
    ] = "identity",
    tokens: TokensOrAll = 0,
    steps: Steps = 5000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Tokens of a batch.")] = 1024,
    lr: LearningRate = 1e-3,
    heads_per_step: Annotated[
        int, typer.Option("--heads-per-step", metavar="N", help="Heads that each batch trains.")
    ] = 1,
    weights: Annotated[
        Literal["falling", "equal"],
        typer.Option("--weights", metavar="W", help="Of the losses: falling, or equal, as in the paper."),
    ] = "falling",
    model_rate: Annotated[
        float, typer.Option("--model-rate", metavar="X", help="Of a finetuned model: a part of --lr.")
    ] = 0.5,
    precision: PrecisionOption = "float32",
    checkpoint: CheckpointSeconds = 120.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Train the proposal heads of blockwise decoding. The same command goes on with a run that was stopped.

    Encoder-decoder folders and finetuning go through transformers; frozen heads of other models are
    trained on the states of the engine that will run them. Distilled outputs are kept as the target's
    tokens where it writes them; a model that is finetuned on them reads the data as it is in turns.
    """
    from outpace.heads.folder import MAX_SIZE
    from outpace.train.data import read_pairs

    sizes = (batch, heads, 1 if width is None else width)
    if min(steps, *sizes) < 1 or heads < 2 or tokens < 0 or max(sizes) > MAX_SIZE:
        raise OutpaceError(
            "--steps, --batch and --width must be 1 or more, --heads 2 or more, --tokens 0 or more; --batch, "
            f"--width and --heads up to {MAX_SIZE}"
        )
    if not 1 <= heads_per_step <= heads or not lr > 0 or not checkpoint >= 0:
        raise OutpaceError("--heads-per-step must be 1 to --heads, --lr more than 0, --checkpoint 0 or more")
    if not 0 < model_rate < math.inf:
        raise OutpaceError("--model-rate must be more than 0")
    check_seed(seed, threads)
    check_source(data, own_text)
    if own_text and (data_regime != "gold" or regime != "frozen"):
        raise OutpaceError("--own-text is what the model writes already; it goes with frozen and gold alone")
    if teacher is not None and data_regime != "distilled":
        raise OutpaceError("--teacher writes distilled outputs; it goes with --data-regime distilled alone")
    pairs = read_pairs(data) if data else []
    try:
        from outpace.train import jobs
    except ImportError as error:
        raise needs_torch(error) from None
    job = jobs.BlockwiseJob(
        target, output, regime=regime, heads=heads, width=width, first=first, tokens=tokens, steps=steps,
        batch=batch, lr=lr, heads_per_step=heads_per_step, weights=weights, model_rate=model_rate,
        precision=precision, checkpoint_s=checkpoint, seed=seed, threads=threads, own_text=own_text,
    )  # fmt: skip
    with progress_bar() as progress:
        gold = pairs if data_regime == "distilled" and regime == "finetuned" else []
        if data_regime == "distilled":
            pairs = job.distil(pairs, teacher, progress)
        config = job.run(pairs, progress, gold=gold)
    print(f"{output}: {config.num_heads} heads for {config.model}")


@app.command("markov_heads")
def markov_heads(
    output: Output,
    data: Data = None,
    own_text: OwnText = 0,
    target: Target = options.DEFAULT_MODEL,
    taps: Annotated[
        str | None,
        typer.Option(
            "--taps", metavar="T,T", help="States it reads: layers by number, and final; thirds and the end."
        ),
    ] = None,
    length: Annotated[int, typer.Option("--length", metavar="N", help="Positions of a block.")] = 5,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Hidden units.")] = 1280,
    rank: Annotated[
        int, typer.Option("--rank", metavar="N", help="Numbers that know the tokens before a position.")
    ] = 128,
    tokens: Tokens = 4096,
    steps: Steps = 5000,
    segments: Annotated[
        int, typer.Option("--segments", metavar="N", help="Of a batch, 64 tokens each.")
    ] = 16,
    lr: LearningRate = 1e-3,
    precision: PrecisionOption = "float32",
    checkpoint: CheckpointSeconds = 120.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Train Markov heads for a model. The same command goes on with a run that was stopped.

    An encoder-decoder folder goes through transformers: it says the inputs of --data anew, greedily, and
    that is what the heads learn.
    """
    from outpace.train.data import read_pairs

    if min(length, width, rank, tokens, steps, segments) < 1 or not lr > 0 or not checkpoint >= 0:
        raise OutpaceError(
            "--length, --width, --rank, --tokens, --steps and --segments must be 1 or more, --lr more than "
            "0, --checkpoint 0 or more"
        )
    check_seed(seed, threads)
    check_source(data, own_text)
    names = None if taps is None else tuple(name.strip() for name in taps.split(","))
    pairs = read_pairs(data) if data else []
    try:
        from outpace.train.jobs_markov import MarkovJob
    except ImportError as error:
        raise needs_torch(error) from None
    job = MarkovJob(
        target, output, taps=names, length=length, width=width, rank=rank, tokens=tokens, steps=steps,
        segments=segments, lr=lr, precision=precision, checkpoint_s=checkpoint, seed=seed, threads=threads,
        own_text=own_text,
    )  # fmt: skip
    with progress_bar() as progress:
        config = job.run(pairs, progress)
    print(f"{output}: a block of {config.length} positions for {config.model}")


@app.command("hydra", help=f"Train Hydra heads for a model. {GOES_ON}")
@app.command("medusa", help=f"Train Medusa heads for a model. {GOES_ON}")
def residual(
    command: typer.Context,
    output: HeadsOutput,
    data: Data = None,
    own_text: OwnText = 0,
    target: Target = options.DEFAULT_MODEL,
    heads: Annotated[int, typer.Option("--heads", metavar="N", help="How many: how deep they draft.")] = 4,
    layers: Annotated[int, typer.Option("--layers", metavar="N", help="Residual layers of each head.")] = 1,
    outputs: Annotated[
        Literal["shared", "own"],
        typer.Option(
            "--outputs",
            metavar="O",
            help="shared: the model's output matrix for all; own: one for each head.",
        ),
    ] = "shared",
    tokens: TokensOrAll = 4096,
    steps: Steps = 5000,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", help="Tokens of a batch, a multiple of 64.")
    ] = 1024,
    lr: LearningRate = 1e-3,
    precision: PrecisionOption = "float32",
    checkpoint: CheckpointSeconds = 120.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Both have the same options."""
    from outpace.train.data import read_pairs

    if min(heads, layers, steps) < 1 or tokens < 0 or not lr > 0 or not checkpoint >= 0:
        raise OutpaceError(
            "--heads, --layers and --steps must be 1 or more, --tokens 0 or more, --lr more than 0, "
            "--checkpoint 0 or more"
        )
    check_seed(seed, threads)
    check_source(data, own_text)
    pairs = read_pairs(data) if data else []
    try:
        from outpace.train.jobs_residual import ResidualJob
    except ImportError as error:
        raise needs_torch(error) from None
    method = str(command.info_name)
    job = ResidualJob(
        method, target, output, heads=heads, layers=layers, outputs=outputs, tokens=tokens, steps=steps,
        batch=batch, lr=lr, precision=precision, checkpoint_s=checkpoint, seed=seed, threads=threads,
        own_text=own_text,
    )  # fmt: skip
    with progress_bar() as progress:
        config = job.run(pairs, progress)
    print(f"{output}: {config.num_heads} {method.capitalize()} heads for {config.model}")


@app.command("eagle")
def eagle(
    output: Output,
    data: Data = None,
    own_text: OwnText = 0,
    target: Target = options.DEFAULT_MODEL,
    taps: Annotated[
        str | None,
        typer.Option("--taps", metavar="T,T", help="Layers whose states it reads, by number; EAGLE-3's."),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option("--width", metavar="N", help="Units of its feed-forward; as many as the model's."),
    ] = None,
    tokens: Tokens = 4096,
    unrolled: Annotated[
        int, typer.Option("--unrolled", metavar="N", help="Steps that it drafts in training.")
    ] = 4,
    steps: Steps = 2000,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", help="Tokens of a batch, of whole texts.")
    ] = 2048,
    lr: LearningRate = 1e-3,
    precision: PrecisionOption = "float32",
    checkpoint: CheckpointSeconds = 120.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Train an EAGLE-3 layer for a model. The same command goes on with a run that was stopped."""
    from outpace.train.data import read_pairs

    if steps < 1 or not lr > 0 or not checkpoint >= 0:
        raise OutpaceError("--steps must be 1 or more, --lr more than 0, --checkpoint 0 or more")
    check_seed(seed, threads)
    check_source(data, own_text)
    names = None if taps is None else tuple(name.strip() for name in taps.split(","))
    pairs = read_pairs(data) if data else []
    try:
        from outpace.train.jobs_eagle import EagleJob
    except ImportError as error:
        raise needs_torch(error) from None
    job = EagleJob(
        target, output, taps=names, width=width, tokens=tokens, unrolled=unrolled, steps=steps, batch=batch,
        lr=lr, precision=precision, checkpoint_s=checkpoint, seed=seed, threads=threads,
    )  # fmt: skip
    job.check()
    with progress_bar() as progress:
        config = job.run(pairs or own_pairs(target, output, own_text, seed, threads, progress), progress)
    print(f"{output}: an EAGLE-3 layer that drafts {config.num_tokens} tokens of {config.model}")


@app.command("early_exit")
def early_exit(
    output: Output,
    data: Data = None,
    own_text: OwnText = 0,
    target: Target = options.DEFAULT_MODEL,
    layers: Annotated[
        int, typer.Option("--layers", metavar="N", help="Layers before it; 0 for a sixteenth of the model's.")
    ] = 0,
    tokens: TokensOrAll = 4096,
    steps: Steps = 2000,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", help="Tokens of a batch, of whole texts.")
    ] = 2048,
    lr: LearningRate = 1e-3,
    precision: PrecisionOption = "float32",
    checkpoint: CheckpointSeconds = 120.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Train an adapter behind a model's first layers. The same command goes on with a stopped run."""
    from outpace.train.data import read_pairs

    if steps < 1 or not lr > 0 or not checkpoint >= 0:
        raise OutpaceError("--steps must be 1 or more, --lr more than 0, --checkpoint 0 or more")
    check_seed(seed, threads)
    check_source(data, own_text)
    pairs = read_pairs(data) if data else []
    try:
        from outpace.train.jobs_early_exit import EarlyExitJob
    except ImportError as error:
        raise needs_torch(error) from None
    job = EarlyExitJob(
        target, output, layers=layers, tokens=tokens, steps=steps, batch=batch, lr=lr, precision=precision,
        checkpoint_s=checkpoint, seed=seed, threads=threads,
    )  # fmt: skip
    job.check()
    with progress_bar() as progress:
        config = job.run(pairs or own_pairs(target, output, own_text, seed, threads, progress), progress)
    print(f"{output}: an adapter behind {config.layers} layers of {config.model}")


@app.command("c2t")
def c2t(
    output: Output,
    draft: Annotated[
        str, typer.Option("--draft", metavar="SPEC", help="The drafter whose trees it is to judge.")
    ],
    data: Annotated[
        list[Path],
        typer.Option("--data", metavar="FILE", help="JSON lines; their inputs are prompts. May be repeated."),
    ],
    target: Target = options.DEFAULT_MODEL,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Another classifier, to go on from.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", help="Use the first N prompts; 0 for all.")
    ] = 0,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", metavar="N", help="Tokens to write from each prompt.")
    ] = 64,
    k: Annotated[int, typer.Option("--k", metavar="N", help="Nodes of a level, and children of each.")] = 10,
    depth: Annotated[int, typer.Option("--depth", metavar="N", help="Levels of a tree.")] = 10,
    width: Annotated[int, typer.Option("--width", metavar="N", help="Hidden units.")] = 48,
    epochs: Annotated[int, typer.Option("--epochs", metavar="N", help="How often each node is seen.")] = 20,
    lr: Annotated[
        float | None,
        typer.Option(
            "--lr",
            metavar="X",
            help="The highest learning rate; 3e-3, or 3e-4 with --from.",
            callback=finite_rate,
        ),
    ] = None,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> None:
    """Train the classifier of the tree policy c2t. The same command goes on with a run that was stopped.

    The model writes from each prompt while the drafter grows full trees, a second or so for each step.
    """
    from outpace.train.data import read_pairs

    if min(max_tokens, k, depth, width, epochs) < 1 or limit < 0 or not (lr is None or lr > 0):
        raise OutpaceError(
            "--max-tokens, --k, --depth, --width and --epochs must be 1 or more, --limit 0 or more, "
            "--lr more than 0"
        )
    check_seed(seed, threads)
    pairs = read_pairs(data)
    pairs = pairs[:limit] if limit else pairs
    try:
        from outpace.train.jobs_c2t import C2TJob
    except ImportError as error:
        raise needs_torch(error) from None
    lr = lr or (3e-3 if start is None else 3e-4)
    job = C2TJob(
        target, draft, output, k=k, depth=depth, max_tokens=max_tokens, width=width, epochs=epochs, lr=lr,
        start=start, seed=seed, threads=threads,
    )  # fmt: skip
    with progress_bar() as progress:
        facts = job.run(pairs, progress)
    judged = ", ".join(f"{name} {value:g}" for name, value in facts.items())
    print(f"{output}: a classifier for {draft} of {target}; of nodes held out: {judged or 'there were none'}")
