"""`outpace datastore write` and `count`: text that a model writes itself, and a text's back-off table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outpace.cli import options, render
from outpace.core.errors import OutpaceError
from outpace.progress import Progress, progress_bar

if TYPE_CHECKING:
    from outpace.core.sampling import Sampling
    from outpace.files.tokenizer import Tokenizer
    from outpace.models.text import Model

Temperature = Annotated[
    float, typer.Option("--temperature", metavar="T", help="Of the answers; 0 takes the likeliest token.")
]


def write(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The .jsonl file; it is added to.")
    ],
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", help="Answer tokens wanted in all.")],
    model: options.Model = options.DEFAULT_MODEL,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Texts that are written at once.")] = 48,
    temperature: Temperature = 0.0,
    seed: options.Seed = 0,
    threads: options.Threads = None,
) -> int:
    """Let a model write its own questions and answer them: the best text to draft from.

    A run that was interrupted goes on where the file ends.
    """
    from outpace.core.sampling import Sampling

    if tokens < 1 or batch < 1:
        raise OutpaceError("tokens and batch must be whole numbers >= 1")
    answers = Sampling(temperature=temperature, seed=seed)
    written(output)  # what is wrong with the file is said before a model is loaded
    loaded = render.load_model(model, threads=threads)
    with progress_bar() as progress:
        done = write_own(loaded, output, tokens, batch=batch, answers=answers, seed=seed, progress=progress)
    print(f"{output}: {done} tokens of {model}")
    return 0


def write_own(
    model: Model,
    output: Path,
    tokens: int,
    *,
    batch: int,
    answers: Sampling,
    seed: int,
    progress: Progress | None,
) -> int:
    """Fill a file with so many tokens of answers, or a few more. Returns how many it has."""
    from outpace.files.whole import append_whole
    from outpace.train.card import write_card
    from outpace.train.self_text import write_text

    done, group = written(output)
    path = options.expanded(output)
    append_whole(path, b"")  # whether it can be written is said before hours have passed
    groups = write_text(model, seed=seed, first_group=group, batch=batch, answers=answers)
    while done < tokens:
        if progress is not None:
            progress(done, tokens, f"{done} tokens")
        documents = next(groups)
        records = [
            {"group": group, "prompt_ids": list(d.prompt_ids), "token_ids": d.token_ids} for d in documents
        ]
        # A group is on disk whole before the next begins.
        append_whole(path, "".join(json.dumps(record) + "\n" for record in records).encode())
        done += sum(len(document.token_ids) for document in documents)
        group += 1
    write_card(path, model, answers, seed)
    return done


def count(
    texts: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Plain texts, or .jsonl with an object a line.")
    ],
    model: options.Model = options.DEFAULT_MODEL,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The table; without it, the model's own."),
    ] = None,
    order: Annotated[int, typer.Option("--order", metavar="N", help="The longest context counted.")] = 5,
    min_count: Annotated[
        int, typer.Option("--min-count", metavar="N", help="Leave out contexts seen less often.")
    ] = 2,
) -> int:
    """Count a text into the back-off table that the draft backoff uses, and mix where there is one."""
    from outpace.drafters.lookup.backoff import FILE_NAME
    from outpace.files import open_model
    from outpace.files.memo import Memo

    if not 1 <= order <= 8 or min_count < 1:
        raise OutpaceError("order must be 1 to 8 and min-count a whole number >= 1")
    with progress_bar() as progress:
        loaded = open_model(model, progress=progress)
        path = Memo(loaded.weights.path).path(FILE_NAME) if output is None else options.expanded(output)
        if not path.absolute().parent.is_dir():
            raise OutpaceError(f"cannot write {path}: there is no folder {path.parent}")
        if path.is_dir():
            raise OutpaceError(f"cannot write {path}: it is a folder, accepted is the name of a file")
        table = count_texts(
            path,
            texts,
            loaded.tokenizer,
            loaded.config.vocab_size,
            progress,
            order=order,
            min_count=min_count,
        )
        loaded.close()
    print(f"{path}: {table}")
    return 0


def count_texts(
    path: Path,
    texts: Sequence[Path],
    tokenizer: Tokenizer,
    vocab_size: int,
    progress: Progress | None,
    **options: int,
) -> str:
    """Count texts into a back-off table. Returns how large it is."""
    from outpace.files.backoff import write_backoff
    from outpace.files.corpus import read_corpus
    from outpace.files.datastore import vocabulary_id

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    table = write_backoff(
        path,
        read_corpus(texts, encode, vocab_size=vocab_size, progress=progress),
        vocabulary=vocabulary_id(tokenizer.text_bytes, vocab_size),
        **options,
    )
    return f"{table.num_contexts} contexts, {path.stat().st_size / 1e6:.1f} MB"


def written(output: Path) -> tuple[int, int]:
    """(tokens that a file holds, number of the next group). A half-written last line is cut off."""
    from outpace.train.self_text import written_line

    path = options.expanded(output)
    if not path.exists():
        return 0, 0
    done = group = 0
    try:
        if not path.is_file():
            raise ValueError("it is not a regular file")
        with path.open("rb+") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    file.truncate(path.stat().st_size - len(line))
                    break
                of_line, count = written_line(line)
                done, group = done + count, max(group, of_line + 1)
    except (OSError, ValueError) as error:
        raise OutpaceError(f"{output} is not a file that this command has written: {error}") from None
    return done, group
