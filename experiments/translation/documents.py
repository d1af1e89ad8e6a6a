"""Paragraphs of manuals that exist in English and German, paired by the structure that both have.

A section is paired only if its markers are the same in both languages, and a paragraph only if it names the
same numbers; the rest is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from experiments.kit.documents import Block

_LANGUAGE = re.compile(r"[/.]((?:[a-z]{2}|C)(?:[-_][A-Z]\w+)?)(?=[/.])")
_GERMAN, _ENGLISH = ("de", "de-DE", "de_DE"), ("en", "en-US", "en_US", "C")
_PAGE = re.compile(r"^/usr/share/man/(de/)?man\d/[^/]+\.gz$")
_MARKUP = re.compile(r"\.(html|page)$")
_TRANSLATORS = "ÜBERSETZUNG"
_HEADINGS = frozenset(("SH", "SS", "title", "h1", "h2", "h3", "h4"))


def place(path: str) -> tuple[str, str] | None:
    """("de" or "en", a key that is the same in both) of a file in a package, None if it is neither."""
    if _PAGE.search(path):
        return ("de" if "/man/de/" in path else "en"), path.replace("/man/de/", "/man/")
    if not _MARKUP.search(path):
        return None
    named = _LANGUAGE.findall(path)
    if any(name not in _GERMAN + _ENGLISH for name in named):
        return None
    return ("de" if any(name in _GERMAN for name in named) else "en"), _LANGUAGE.sub("", path)


def align(english: Sequence[Block], german: Sequence[Block]) -> Iterator[tuple[str, str]]:
    """Pairs of paragraphs of a document and its translation."""
    if ("SH", _TRANSLATORS) in german:  # a section that German man pages have on top
        german = german[: german.index(("SH", _TRANSLATORS))]
    sections = list(_sections(english)), list(_sections(german))
    if len(sections[0]) != len(sections[1]):
        return
    for ours, theirs in zip(*sections, strict=True):
        if [marker for marker, _ in ours] == [marker for marker, _ in theirs]:
            for (_, source), (_, target) in zip(ours, theirs, strict=True):
                if sorted(re.findall(r"\d+", source)) == sorted(re.findall(r"\d+", target)):
                    yield source, target


def _sections(document: Sequence[Block]) -> Iterator[Sequence[Block]]:
    starts = [number for number, (marker, _) in enumerate(document) if marker in _HEADINGS]
    for start, end in pairwise([0, *starts, len(document)]):
        yield document[start:end]
