"""Options and checks that the commands of `outpace train` share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from outpace.cli import options, render
from outpace.core.errors import OutpaceError
from outpace.progress import Progress

if TYPE_CHECKING:
    from outpace.train.data import Pair

GOES_ON = "The same command goes on with a run that was stopped."


def _folder(text: str) -> Any:
    """The option of where a training's files go; ~ is the home folder, as where they are read."""
    return typer.Option("--output", "-o", metavar="FOLDER", help=text, callback=options.expanded)


Output = Annotated[Path, _folder("Where it goes.")]
HeadsOutput = Annotated[Path, _folder("Where the heads go.")]
Data = Annotated[
    list[Path] | None,
    typer.Option("--data", metavar="FILE", help="JSON lines of inputs and outputs; may be repeated."),
]
OwnText = Annotated[
    int, typer.Option("--own-text", metavar="N", help="Instead: N tokens that the model writes itself.")
]
Target = Annotated[str, typer.Option("--target", metavar="MODEL", help="The model: as --model of generate.")]
Tokens = Annotated[int, typer.Option("--tokens", metavar="N", help="Draft the N most frequent tokens only.")]
TokensOrAll = Annotated[
    int, typer.Option("--tokens", metavar="N", help="Draft the N most frequent tokens only; 0 for all.")
]
Steps = Annotated[int, typer.Option("--steps", metavar="N", help="Batches to train on.")]


def finite_rate(lr: float | None) -> float | None:
    """A learning rate that can be multiplied with; the commands look at the rest."""
    if lr == math.inf:
        raise OutpaceError("--lr is inf, accepted are finite numbers more than 0")
    return lr


LearningRate = Annotated[
    float, typer.Option("--lr", metavar="X", help="The highest learning rate.", callback=finite_rate)
]
PrecisionOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option("--precision", metavar="P", help="Of matrix products: float32, or bfloat16."),
]
CheckpointSeconds = Annotated[
    float, typer.Option("--checkpoint", metavar="S", help="Seconds between checkpoints.")
]


def check_seed(seed: int, threads: int | None) -> None:
    """What all trainings accept, which is less than sampling does."""
    if not 0 <= seed < 1 << 32 or not 1 <= (1 if threads is None else threads) <= 1024:
        raise OutpaceError(f"--seed must be 0 to {(1 << 32) - 1}, --threads 1 to 1024")


def own_pairs(
    target: str, folder: Path, tokens: int, seed: int, threads: int | None, progress: Progress | None
) -> list[Pair]:
    """What the model writes itself, kept in the folder, where the same run goes on with it."""
    from outpace.cli.own_text import write_own
    from outpace.core.sampling import Sampling
    from outpace.heads.proposals import tapped
    from outpace.train.data import read_pairs
    from outpace.train.origin import ORIGIN, claim
    from outpace.train.self_text import OWN_TEXT, batch_for, own_text_name

    path = folder / OWN_TEXT
    model = render.load_model(target, threads=threads)
    facts = {"target": tapped(model.target, "training").fingerprint(), "data": own_text_name(tokens, seed)}
    claim(folder / ORIGIN, facts, begun=path.exists())
    answers, batch = Sampling(seed=seed), batch_for(model.target)
    write_own(model, path, tokens, batch=batch, answers=answers, seed=seed, progress=progress)
    model.close()
    return read_pairs([path])


def check_source(data: list[Path] | None, own_text: int) -> None:
    """Refuse both, and neither."""
    if bool(data) == bool(own_text) or own_text < 0:
        raise OutpaceError("accepted are --data FILE or --own-text N, one of them")


def needs_torch(error: ImportError) -> OutpaceError:
    """What to say where the extra is missing."""
    return OutpaceError(f"training needs the extra torch (pip install 'outpace[torch]'): {error}")
