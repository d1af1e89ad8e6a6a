"""The text as files: `text/train.txt`, `dev.txt`, `test.txt`, paragraphs and documents apart.

A blank line ends a paragraph, a line with a form feed alone a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from outpace.core.errors import OutpaceError

NAMES = ("train", "dev", "test")
_BORDER = "\n\n\f\n\n"


def path(work: Path, name: str) -> Path:
    """The file of a part. OutpaceError if there is no such part."""
    if name not in NAMES:
        raise OutpaceError(f"the corpus has no {name!r}, accepted: {', '.join(NAMES)}")
    return work / "text" / f"{name}.txt"


def write(work: Path, name: str, documents: Iterable[Sequence[str]]) -> None:
    """Documents, each its paragraphs. The file appears under its name when it is complete."""
    file = path(work, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(_BORDER.join("\n\n".join(one) for one in documents), encoding="utf-8")
    part.replace(file)


def read(work: Path, name: str) -> list[str]:
    """The documents of a part, with blank lines between their paragraphs."""
    file = path(work, name)
    if not file.exists():
        raise OutpaceError(f"{file.name} is missing in {file.parent}; `prepare` makes it")
    text = file.read_text(encoding="utf-8").strip()
    if not text:
        raise OutpaceError(f"{file.name} is empty")
    return text.split(_BORDER)
