"""`outpace datastore`: what the drafts retrieval and backoff look up, made from texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from outpace.cli import options, render
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar

app = options.group("Text to draft from: write, build, count, look at.")


@app.command("build")
def build(
    texts: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Plain texts, or .jsonl with an object a line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The datastore to write.")],
    model: options.Model = options.DEFAULT_MODEL,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the datastore if it exists.")] = False,
) -> None:
    """Build a datastore from texts, for models with one vocabulary.

    A line of a .jsonl file is an object with token_ids, text, messages or turns,
    as in the records of generate --json and of bench.
    """
    from outpace.files import open_model
    from outpace.files.corpus import read_corpus
    from outpace.files.datastore import vocabulary_id, write_datastore

    output = options.expanded(output)
    if output.exists() and not force:
        raise OutpaceError(f"{output} exists; --force overwrites it")
    if not output.absolute().parent.is_dir():
        raise OutpaceError(f"cannot write {output}: there is no folder {output.parent}")
    with progress_bar() as progress:
        loaded = open_model(model, progress=progress)
        tokenizer, vocab_size = loaded.tokenizer, loaded.config.vocab_size

        def encode(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        write_datastore(
            output,
            read_corpus(texts, encode, vocab_size=vocab_size, progress=progress),
            vocab_size=vocab_size,
            vocabulary=vocabulary_id(tokenizer.text_bytes, vocab_size),
            progress=progress,
        )
        loaded.close()
    info(output)


@app.command("info")
def info(
    datastore: Annotated[Path, typer.Argument(metavar="FILE", help="A file that build has written.")],
) -> None:
    """Check a datastore and show what is in it."""
    from outpace.files.datastore import Datastore

    store = Datastore(datastore)
    facts = [
        ("file", str(store.path)),
        ("size", f"{store.path.stat().st_size / 1e6:.1f} MB"),
        ("texts", str(store.num_texts)),
        ("tokens", str(len(store.tokens) - store.num_texts)),
        ("vocabulary", f"{store.vocab_size} tokens, {store.vocabulary[:16]}"),
    ]
    render.facts(facts)
