"""The command line: one file per verb, each of which parses, makes one call into the library, and prints.

Whoever runs `outpace` can stop it from the first import on.
"""

from __future__ import annotations

import os
import signal
import sys


def _leave(number: int, frame: object) -> None:
    # Nothing has begun yet that would have to be put away.
    os.write(2, b"\ninterrupted\n" if os.isatty(2) else b"interrupted\n")
    os._exit(130)


# `main` takes over from here. A program that imports a part of this package keeps its own ways.
if (
    os.path.basename([*sys.argv, ""][0]) == "outpace"
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _leave)
