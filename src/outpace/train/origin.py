"""What files were made from, noted beside them when they are begun: no other run goes on with them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outpace.core.errors import FormatError, OutpaceError
from outpace.core.options import shown
from outpace.files.json_files import json_file
from outpace.files.whole import write_whole

ORIGIN = "origin.json"


def claim(path: Path, facts: Mapping[str, Any], *, begun: bool) -> None:
    """Note the facts at `path`, or see that they are those noted there; else an OutpaceError.

    begun  whether there are files already that the facts are about: they need a note.
    """
    mine = json.loads(json.dumps(dict(facts)))
    try:
        noted = json_file(path) if os.path.lexists(path) else None
    except FormatError as error:
        raise OutpaceError(f"{path} cannot be read ({error}); remove the folder to begin anew") from None
    if noted is None and not begun:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutpaceError(f"cannot write {path}: {error.strerror or error}") from error
        write_whole(path, (json.dumps(mine, indent=1) + "\n").encode())
    elif noted != mine:
        made = "what nobody has noted" if noted is None else unlike(noted, mine)
        raise OutpaceError(f"{path.parent} holds files of {made}; accepted are the same or a new folder")


def unlike(before: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """The facts that differ, as they were before and as they are now; "" where none does."""
    changed = sorted(key for key in {*before, *mine} if before.get(key) != mine.get(key))
    return ", ".join(f"{key}={shown(before.get(key))} (now {shown(mine.get(key))})" for key in changed)
