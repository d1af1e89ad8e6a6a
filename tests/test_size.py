"""No source file over 400 lines without a reason in its first line."""

from __future__ import annotations

from pathlib import Path

import pytest

import outpace

LIMIT = 400
SOURCES = Path(outpace.__file__).parent
CHECKOUT = Path(__file__).parents[1]
SUFFIXES = {".py", ".cpp", ".hpp", ".h", ".cc", ".inc"}
FILES = [
    path
    for folder in (SOURCES, CHECKOUT / "native")
    for path in sorted(folder.rglob("*"))
    if path.suffix in SUFFIXES
]


def too_long(text: str) -> bool:
    """A first line that says "long because ..." excuses a file."""
    lines = text.splitlines()
    return len(lines) > LIMIT and "long because" not in lines[0].lower()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_is_too_long(path: Path) -> None:
    assert not too_long(path.read_text(encoding="utf-8")), f"{path} has more than {LIMIT} lines"


def test_the_measure() -> None:
    assert {"tree.py", "step.py"} <= {path.name for path in FILES}
    assert not too_long("x\n" * LIMIT) and too_long("x\n" * (LIMIT + 1))
    assert not too_long("// Long because every instruction set needs its own loop.\n" + "x\n" * LIMIT)
