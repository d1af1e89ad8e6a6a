"""What `outpace prepare` has found for a model's file: the draft of calls that name none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.notes import note
from outpace.drafters import DRAFTERS
from outpace.files.json_files import json_file
from outpace.files.whole import write_whole
from outpace.heads.packaged import find_packaged_heads

FILE_NAME = "draft.json"


def prepared_draft(beside: Callable[[str], Path] | None) -> str | None:
    """The draft that was fastest when the model was prepared, if it was.

    beside  name -> path of a file that belongs to the model. A file that is damaged is left out, and a line
            says so.
    """
    path = beside(FILE_NAME) if beside is not None else None
    if path is None or not path.exists():
        return None
    try:
        draft = json_file(path).get("draft")
        if not isinstance(draft, str):
            raise OutpaceError(f"its draft is {draft!r}, expected a text")
        DRAFTERS.parse(draft)
    except OutpaceError as error:
        note(f"{path} is left out, `outpace prepare` makes it anew: {error}")
        return None
    return draft


def usual_draft(target: Target) -> str:
    """The draft of a model that nobody has prepared: prompt lookup, with a table if the package has one."""
    return "mix" if find_packaged_heads(target, "backoff") else "ngram"


def write_prepared(path: Path, draft: str, times_plain: dict[str, float]) -> None:
    """Note the draft, and how many times as fast as plain decoding each one was."""
    write_whole(path, (json.dumps({"draft": draft, "times_plain": times_plain}, indent=1) + "\n").encode())
