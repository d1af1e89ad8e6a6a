"""The parallel corpus as files: `train.tsv`, `dev.tsv`, `test.tsv` English, German and origin a line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from outpace.core.errors import OutpaceError


@dataclass(frozen=True, slots=True)
class Segment:
    """A text, its translation, and the package that it comes from."""

    source: str
    target: str
    origin: str


def write(path: Path, segments: Iterable[Segment]) -> None:
    """Whole or not at all: the file appears under its name when it is complete."""
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        file.writelines(f"{one.source}\t{one.target}\t{one.origin}\n" for one in segments)
    part.replace(path)


def read(path: Path) -> list[Segment]:
    """The segments of a file. OutpaceError names the line that is none."""
    if not path.exists():
        raise OutpaceError(f"{path.name} is missing in {path.parent}; `prepare` makes it")
    segments = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\n").split("\t")
            if len(fields) != 3 or not all(fields):
                raise OutpaceError(f"{path.name} line {number}: accepted are three texts with tabs")
            segments.append(Segment(*fields))
    if not segments:
        raise OutpaceError(f"{path.name} is empty")
    return segments


def fingerprint(path: Path) -> str:
    """The sha256 of a file, for run records."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
