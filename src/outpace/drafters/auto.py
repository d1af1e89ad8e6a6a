"""auto: the draft of calls that name none, which is the fastest as far as anybody has measured.

Rice 1976, "The Algorithm Selection Problem", https://doi.org/10.1016/S0065-2458(08)60520-3.

a looped model             speed: it drafts with its own early loops
one that was prepared      what `outpace prepare` found fastest, in a file beside the packed model
one that the package knows mix, with the table that comes with it
any other                  ngram: prompt lookup
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from outpace.core.contracts import Drafter, Looped, Target
from outpace.core.errors import OutpaceError
from outpace.core.notes import note
from outpace.files.json_files import json_file
from outpace.files.whole import write_whole
from outpace.heads.packaged import find_packaged_heads

FILE_NAME, LOOKUP = "draft.json", "ngram"
RACERS = (
    LOOKUP,
    "mix:drafts=ngram+suffix",
    "mix:drafts=ngram+backoff",
    "mix:drafts=ngram+markov_heads",
    "mix:drafts=ngram+backoff+markov_heads",
)
"""What `outpace prepare` chooses from, the usual draft first."""
ALONE = ("suffix", "backoff", "markov_heads", "blockwise")  # parts of mixtures: only for comparison


def auto(target: Target, context: Mapping[str, Any], beside: Callable[[str], Path] | None = None) -> Drafter:
    """The drafter that `own_draft` names."""
    from outpace.drafters import DRAFTERS

    def make(spec: str) -> Drafter:
        drafter: Drafter = DRAFTERS.create(spec, **context)
        return drafter

    return make(own_draft(target, beside, make))


def own_draft(target: Target, beside: Callable[[str], Path] | None, make: Callable[[str], object]) -> str:
    """The spec of the draft (see the module): the first that can be made.

    beside  name -> path of a file that belongs to the model.
    make    makes a drafter, or raises an OutpaceError: what was made for the model may be gone.
    """
    if isinstance(target, Looped) and target.num_loops > 1:
        return "speed"
    usual = usual_draft(target)
    draft = prepared_draft(beside) or usual
    while draft != LOOKUP:
        try:
            make(draft)
        except OutpaceError as error:
            draft = LOOKUP if draft == usual else usual
            note(f"the model drafts with {draft}, `outpace prepare` finds a faster draft: {error}")
        else:
            break
    return draft


def at_hand(drafts: Sequence[str], make: Callable[[str], object]) -> list[str]:
    """Those of the drafts that can be made of what lies in the package and beside the model.

    make  makes a drafter, or raises an OutpaceError.
    """
    found = []
    for draft in drafts:
        with suppress(OutpaceError):
            make(draft)
            found.append(draft)
    return found


def prepared_draft(beside: Callable[[str], Path] | None) -> str | None:
    """The draft that was fastest when the model was prepared, if it was.

    beside  name -> path of a file that belongs to the model. A file that is damaged is left out, and a line
            says so.
    """
    path = beside(FILE_NAME) if beside is not None else None
    if path is None or not path.exists():
        return None
    from outpace.drafters import DRAFTERS

    try:
        draft = json_file(path).get("draft")
        if not isinstance(draft, str):
            raise OutpaceError(f"its draft is {draft!r}, expected a text")
        DRAFTERS.parse(draft)
        if "auto" in re.split(r"[^a-z0-9_]+", draft):  # on its own or within another, it would ask for itself
            raise OutpaceError(f"its draft is {draft}, accepted are drafts without auto")
    except OutpaceError as error:
        note(f"{path} is left out, `outpace prepare` makes it anew: {error}")
        return None
    return draft


def usual_draft(target: Target) -> str:
    """The draft of a model that nobody has prepared: prompt lookup, with a table if the package has one."""
    return "mix" if find_packaged_heads(target, "backoff") else LOOKUP


def write_prepared(path: Path, draft: str, times_plain: dict[str, float]) -> None:
    """Note the draft, and how many times as fast as plain decoding each one was."""
    write_whole(path, (json.dumps({"draft": draft, "times_plain": times_plain}, indent=1) + "\n").encode())
