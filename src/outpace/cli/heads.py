"""`outpace heads`: trained heads of other projects, looked at, taken in and given out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from outpace.cli import options, render
from outpace.progress import progress_bar

app = options.group("Trained heads of other projects: look at, take in, give out.")

OtherModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="MODEL", help="The model: as --model of generate.")
]
AllowPickle = Annotated[
    bool,
    typer.Option("--allow-pickle", help="Read pickled weights (.bin, .pt) too, by torch's guarded reader."),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="A new folder for them.")]


@app.command("doctor")
def doctor(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of trained heads.")],
    model: OtherModel = None,
    allow_pickle: AllowPickle = False,
) -> int:
    """Say what a folder of trained heads is, and everything that is wrong with it.

    The status is 0 if drafters here run it or import takes it, with --model
    for that model; 1 if something is wrong.
    """
    from outpace.heads.foreign.doctor import examine
    from outpace.heads.foreign.recognise import recognise

    recognise(path)  # what is no folder of heads waits for no model
    loaded: Any = None if model is None else render.load_model(model, threads=None)
    report = examine(path, None if loaded is None else loaded.target, allow_pickle=allow_pickle)
    lines = [("folder", str(path)), *report.facts]
    if loaded is not None:
        lines.append(("fits", f"{model}: {'no' if report.unfit else 'yes'}"))
        loaded.close()
    lines += [*report.faults, *(report.unfit or ())]
    lines.append(("verdict", "well" if report.is_well else "not usable as it is"))
    render.facts(lines)
    return 0 if report.is_well else 1


@app.command("import")
def take(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of another project's heads.")],
    output: Output,
    model: options.Model = options.DEFAULT_MODEL,
    allow_pickle: AllowPickle = False,
) -> None:
    """Check a folder of another project against a model, and write it as one that drafts here.

    Medusa's heads become a folder for the draft medusa, EAGLE's layers one
    for the draft eagle, those of DFlash and DSpark one for the draft dflash.
    Weights keep their bits.
    """
    from outpace.heads.foreign.recognise import recognise
    from outpace.heads.foreign.taking import check_new, take_in

    output = options.expanded(output)
    recognise(path)
    check_new(output)
    loaded: Any = render.load_model(model, threads=None)
    with progress_bar() as progress:
        layout = take_in(
            path, loaded.target, loaded.name, output, allow_pickle=allow_pickle, progress=progress
        )
    loaded.close()
    for note in layout.notes:
        render.note(f"note: {note}")
    print(f"{output}: {layout.what}, for {loaded.name}; --draft {layout.method}:path={output}")


@app.command("export")
def give(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Heads that were made for Outpace.")],
    output: Output,
    target_name: Annotated[
        str,
        typer.Option(
            "--target-name", metavar="NAME", help="What others call the model; the folder's own name for it."
        ),
    ] = "",
    model: OtherModel = None,
) -> None:
    """Write heads in the layout of another project: eagle, dflash and medusa, for other engines.

    EAGLE-3, DFlash and DSpark layers go out as speculators has them, an
    EAGLE-1 or 2 layer as its authors have it, Medusa heads as vLLM has them.
    Weights keep their bits.
    """
    from outpace.heads.foreign.giving import give_out

    folder, output = options.expanded(folder), options.expanded(output)
    known: dict[str, Any] = {}
    if model is not None:
        loaded: Any = render.load_model(model, threads=None)
        config = getattr(loaded.target, "config", None)
        known["vocab_size"] = loaded.target.vocab_size
        known["architecture"] = getattr(config, "architecture", "")
        loaded.close()
    with progress_bar() as progress:
        given = give_out(folder, output, target_name=target_name, progress=progress, **known)
    for note in given.notes:
        render.note(f"note: {note}")
    print(f"{output}: {given.what}")
