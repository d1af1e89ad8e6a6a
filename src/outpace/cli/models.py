"""`outpace models`: what is known by a short name, what is on this machine, and how to get rid of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli import options, render
from outpace.core.errors import one_line
from outpace.progress import progress_bar

app = options.group("Models: list, fetch, look at, delete.")

Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="Short name, .gguf file, Hugging Face folder or hub id.")
]


@app.command("list")
def list_models() -> None:
    """List the short names, and what the cache folder holds."""
    from outpace.bench.report import markdown_table
    from outpace.files.catalog import CATALOG, installed
    from outpace.files.open import cache_folder
    from outpace.files.packed_copies import packed_copies

    here = installed()
    names = {str(path.resolve()): name for name, path in here.items()}
    rows = [
        (name, entry.description, "yes" if name in here else "no", _megabytes(entry.num_bytes))
        for name, entry in CATALOG.items()
    ]
    print(markdown_table(("model", "description", "on this machine", "MB"), rows, num_text_columns=3))
    copies = packed_copies()
    if copies:
        packed = [
            (
                copy.id,
                one_line(names.get(copy.source, copy.source) or "-"),
                copy.quantize or "-",
                copy.state,
                _megabytes(copy.num_bytes),
            )
            for copy in copies
        ]
        columns = ("packed", "source", "quantize", "state", "MB")
        print("\n" + markdown_table(columns, packed, num_text_columns=4))
    size = sum(copy.num_bytes for copy in copies)
    print(f"\n{len(copies)} packed models, {_megabytes(size)} MB, in {cache_folder()}")


@app.command("pull")
def pull(model: Name) -> None:
    """Fetch a model and pack it, so that its first use starts at once.

    A file that is there already is compared with its SHA-256.
    """
    from outpace.files import catalog, open_model

    with progress_bar() as progress:
        if model in catalog.CATALOG:
            catalog.renew(catalog.pull(model, progress=progress), progress=progress)
        loaded = open_model(model, progress=progress)
    print(loaded.source)
    loaded.close()


@app.command("show")
def show(model: Name) -> None:
    """Show where a model is, its shape and the types of its weights.

    The file of a short name is read to see whether it is what was installed.
    """
    from outpace.files import catalog

    path: Path | None = None
    if model in catalog.CATALOG:
        entry = catalog.info(model)
        path = None if entry.damage else entry.path
        file = (
            f"{entry.path}, as it was installed"
            if path
            else f"not on this machine: outpace models pull {model}"
        )
        if entry.damage:
            file = f"{entry.path}, damaged: {entry.damage}; outpace models pull {model} fetches it anew"
        facts = [
            ("name", entry.name),
            ("description", entry.description),
            ("package", entry.requirement),
            ("SHA-256", entry.sha256),
            ("file", file),
        ]
    else:
        path = catalog.resolve(model)
        facts = [("file", str(path))]
    if path is not None:
        facts += _shape(path)
    render.facts(facts)


@app.command("rm")
def remove(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Short name, the id of a packed model, or the file, folder or hub id it was packed from.",
        ),
    ],
) -> None:
    """Delete a fetched model with its packed forms, or those of a file of yours.

    A source need not be there any more; one of yours is never deleted.
    """
    from outpace.files import catalog

    for file in catalog.remove(model):
        print(f"deleted {one_line(str(file))}")


@app.command("prune")
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete what no start will use any more.

    That is what killed processes have left, and packed models whose source is
    gone or has changed, that are damaged or of another version.
    """
    from outpace.files.packed_copies import prune

    verb = "would delete" if dry_run else "deleted"
    sizes = []
    for what, num_bytes in prune(dry_run=dry_run):
        print(f"{verb} {one_line(what)}: {_megabytes(num_bytes)} MB")
        sizes.append(num_bytes)
    print(f"{verb} {_megabytes(sum(sizes))} MB in all" if sizes else "there is nothing to delete")


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.0f}" if num_bytes >= 1e7 or not num_bytes else f"{num_bytes / 1e6:.1f}"


def _shape(path: Path) -> list[tuple[str, str]]:
    """What the header of a model file says, read without packing it."""
    from outpace.files.config_gguf import config_from_gguf
    from outpace.files.config_hf import config_from_hf
    from outpace.files.gguf import GGUFFile
    from outpace.files.json_files import json_file
    from outpace.files.safetensors import FolderWeights

    source: GGUFFile | FolderWeights
    if path.is_dir():
        config = config_from_hf(json_file(path / "config.json"))
        source = FolderWeights(path)
    else:
        source = GGUFFile(path)
        config = config_from_gguf(source.metadata, source)
    size = sum(tensor.nbytes for tensor in source.tensors.values())
    types = Counter(tensor.type_name for tensor in source.tensors.values())
    heads = f"{config.num_heads} query and {config.num_kv_heads} key-value heads of {config.head_dim}"
    return [
        ("architecture", config.architecture),
        (
            "layers",
            f"{config.num_layers} of width {config.hidden_size}, inner width {config.intermediate_size}",
        ),
        ("attention", heads),
        ("vocabulary", str(config.vocab_size)),
        ("context", f"{config.context_length} tokens"),
        ("weights", f"{size / 1e6:.0f} MB: " + ", ".join(f"{n} {kind}" for kind, n in types.most_common())),
    ]
