"""A process that runs cases one after another and says what became of each, a JSON line at a time.

Arguments: reader, seed, first case, one behind the last, how many bytes of address space beyond its own.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

from tests.fuzz.cases import files_of, run_case, sound


def main(reader: str, seed: int, first: int, end: int, room: int) -> None:
    """Until the range is done, or a case ends the process."""
    said = os.fdopen(os.dup(1), "w", buffering=1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # libraries print before they raise
    run_case(reader, sound(reader)[0])  # what a reader imports is no case's
    own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + room, own + room))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    said.write("ready\n")
    for number in range(first, end):
        files = files_of(reader, seed, number)
        said.write(json.dumps({"begun": number}) + "\n")
        outcome = run_case(reader, files)
        if outcome.kind == "hang":  # a busy machine, perhaps
            outcome = run_case(reader, files)
        said.write(
            json.dumps({"kind": outcome.kind, "detail": outcome.detail, "seconds": outcome.seconds}) + "\n"
        )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
