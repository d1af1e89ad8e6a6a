"""One case: damaged files in a folder of their own, read in this process, and what became of it."""

from __future__ import annotations

import random
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from outpace.core.errors import OutpaceError
from tests.fuzz.mutations import Files, damaged
from tests.fuzz.readers import READERS

BYTES_PER_BYTE, FREE_BYTES = 20, 200_000_000
"""A reader may take so many times the size of its files, and so much besides."""
LIMIT_S = 10.0
MEMORY = Path("/dev/shm")
_LONGEST_MESSAGE = 4000


@dataclass(frozen=True)
class Outcome:
    """kind: "refused" and "accepted" are right; "traceback", "message", "memory" and "hang" are finds."""

    kind: str
    detail: str
    seconds: float

    @property
    def is_find(self) -> bool:
        return self.kind not in ("refused", "accepted")


@cache
def sound(reader: str) -> list[Files]:
    """The seeds of a reader."""
    return READERS[reader].seeds()


def files_of(reader: str, seed: int, number: int) -> Files:
    """The damaged files of a case; the first ones of a reader are sound."""
    made = sound(reader)
    if number < len(made):
        return made[number]
    rng = random.Random(f"{seed}/{reader}/{number}")
    return damaged(rng.choice(made), rng)


def write_files(folder: Path, files: Files) -> None:
    """All files below a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def run_case(reader: str, files: Files) -> Outcome:
    """Read the files as a user would."""
    with TemporaryDirectory(prefix="outpace-fuzz-", dir=MEMORY if MEMORY.is_dir() else None) as name:
        folder = Path(name)
        write_files(folder, files)
        size = sum(map(len, files.values()))
        before = _start_measuring()
        began = time.perf_counter()
        kind, detail = _read(reader, folder)
        seconds = time.perf_counter() - began
        taken = _peak_bytes() - before
    if kind in ("refused", "accepted"):
        if taken > BYTES_PER_BYTE * size + FREE_BYTES:
            return Outcome("memory", f"{taken / 1e6:.0f} MB for {size} bytes of files", seconds)
        if seconds > LIMIT_S:
            return Outcome("hang", f"{seconds:.0f} s", seconds)
    return Outcome(kind, detail, seconds)


def _read(reader: str, folder: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            # What numpy would print to a user's terminal.
            warnings.simplefilter("error", RuntimeWarning)
            READERS[reader].read(folder)
    except OutpaceError as error:
        said = str(error)
        if not said or not said.isprintable() or len(said) > _LONGEST_MESSAGE:
            return "message", repr(said)
        return "refused", said
    except BaseException as error:  # of libraries too, whose worst errors are no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return "traceback", "".join(traceback.format_exception(error))
    return "accepted", ""


def _start_measuring() -> int:
    """Forgets the process's peak of memory and returns what it has now, in bytes."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak_bytes() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    (line,) = (line for line in text.splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
