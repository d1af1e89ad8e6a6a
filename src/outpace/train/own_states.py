"""A model's own text with the states it was chosen from, written by the model to train heads on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from outpace.core.errors import OutpaceError
from outpace.train.features import FeatureFile
from outpace.train.loop import Progress
from outpace.train.self_text import write_text

if TYPE_CHECKING:
    from outpace.api import Model


def write_own_text(
    model: Model, file: FeatureFile, path: Path, num_tokens: int, seed: int, progress: Progress | None
) -> str:
    """Fill the file up to `num_tokens` tokens of answers; names the text, for run.json.

    `path` gets the documents as JSON lines, a whole group at a time, and says where to go on.
    """
    try:
        path.touch()
        groups = [json.loads(line)["group"] for line in path.read_text().splitlines()]
        # States are written before the lines that they belong to: what has no line yet is written again.
        file.keep(len(groups))
        documents = write_text(model, seed=seed, first_group=groups[-1] + 1 if groups else 0, record=True)
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
    except OutpaceError:
        raise
    except (ValueError, KeyError) as error:
        raise OutpaceError(f"{path} is not a file that this command has written: {error}") from None
    except OSError as error:
        raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
    return f"own text, seed {seed}, {num_tokens} tokens"
