"""A model's own text with the states it was chosen from, written by the model to train heads on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.progress import Progress
from outpace.train.card import write_card
from outpace.train.data import whole_lines
from outpace.train.features import FeatureFile, add_answers
from outpace.train.recording import FINAL
from outpace.train.self_text import batch_for, write_text, written_line

if TYPE_CHECKING:
    from outpace.models.text import Model


def write_own_text(
    model: Model,
    file: FeatureFile,
    path: Path,
    num_tokens: int,
    seed: int,
    progress: Progress | None,
    *,
    taps: Sequence[str] = (FINAL,),
) -> str:
    """Fill the file up to `num_tokens` tokens of answers, or a few more; names the text, for run.json.

    `taps` are those whose states the file holds, one behind the other. They are tapped already.

    `path` gets the documents as JSON lines, a whole group at a time, and says where to go on. What it has
    without states, as a text that was written for a table, is read by the model first.
    """
    try:
        path.touch()
        first_group, texts = _whole_groups(path, file)
        target: Any = model.target
        largest = max((max(*said, *asked) for asked, said in texts), default=0)
        if largest >= target.vocab_size:
            raise OutpaceError(
                f"{path} has the token id {largest}, accepted are this model's, 0 to {target.vocab_size - 1}"
            )
        add_answers(file, target, texts, taps=taps, progress=progress)
        batch = batch_for(model.target)
        documents = write_text(model, seed=seed, first_group=first_group, batch=batch, record=taps)
        with path.open("a", encoding="utf-8") as lines:
            while file.num_tokens < num_tokens:
                if progress is not None:
                    progress(file.num_tokens, num_tokens, f"{file.num_tokens} tokens of its own")
                group = next(documents)
                file.add([(d.states, d.token_ids) for d in group if d.states is not None])
                records = [
                    {"group": d.group, "prompt_ids": list(d.prompt_ids), "token_ids": d.token_ids}
                    for d in group
                ]
                lines.write("".join(json.dumps(record) + "\n" for record in records))
                lines.flush()
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
    write_card(path, model, Sampling(), seed)
    return f"own text, seed {seed}, {file.num_tokens} tokens"


def _whole_groups(path: Path, file: FeatureFile) -> tuple[int, list[tuple[list[int], list[int]]]]:
    """Forget the group, if any, that an interruption has left half written.

    Returns the number of the next one, and the texts that there are, as (prompt, answer). The states of a
    group are written before its lines: where there are more states than lines, the last group is not whole.
    """
    lines = whole_lines(path)
    try:
        groups = [written_line(line)[0] for line in lines]
    except ValueError as error:
        raise OutpaceError(f"{path} is not a file that this command has written: {error}") from None
    if len(groups) < file.num_texts and groups:
        groups = groups[: groups.index(groups[-1])]
    file.keep(min(len(groups), file.num_texts))
    with path.open("rb+") as text:
        text.truncate(sum(map(len, lines[: len(groups)])))
    pairs = [json.loads(line) for line in lines[: len(groups)]]
    return groups[-1] + 1 if groups else 0, [(one["prompt_ids"], one["token_ids"]) for one in pairs]
