"""From raw pairs of texts to segments: markup and accelerators off, sentences apart, the odd ones out."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_WORDS = 100
LENGTH_RATIO = (0.4, 2.5)  # of characters, German to English
MIN_LETTERS = 0.6  # of what is not space

Pair = tuple[str, str]

_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_LATIN = re.compile(r"[\x20-\x7e\xa0-\u024f\u2010-\u2064\u20ac\u2190-\u21ff\u2212\u2026\u2122\u22ef]*")
_PARAGRAPHS = re.compile(r"\n\s*\n")
# The end of a sentence: not after one letter, a number or a usual abbreviation.
_SENTENCES = re.compile(
    r"(?<=\w\w[.!?:)])(?<!\b[Bb]zw\.)(?<!\betc\.)(?<!\bvgl\.)(?<!\busw\.)(?<!\bggf\.)(?<!\bevtl\.)(?<!\d\.)(?<!:)"
    r"\s+(?=[A-ZÄÖÜ»„\"(])"
)


def segments(source: str, target: str) -> Iterator[Pair]:
    """The segments of one raw pair that are worth learning from."""
    for paragraph in _apart(source, target, _PARAGRAPHS):
        bare = _without_accelerators(*map(_plain, paragraph))
        for sentence in _apart(*bare, _SENTENCES):
            if _is_wanted(*sentence):
                yield sentence


def normalised(text: str) -> str:
    """What two texts share that differ only in case, punctuation and spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _apart(source: str, target: str, border: re.Pattern[str]) -> list[Pair]:
    """The parts between borders where both sides have as many and their lengths fit, else the whole."""
    parts = list(zip(border.split(source), border.split(target), strict=False))
    whole = [(source, target)]
    if len(parts) == 1 or len(border.split(source)) != len(border.split(target)):
        return whole
    return parts if all(_fits(*part) for part in parts) else whole


def _plain(text: str) -> str:
    for written, meant in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&"), ("\xa0", " ")):
        text = text.replace(written, meant)
    return " ".join(_TAG.sub(" ", text).replace("\\n", " ").split())


def _without_accelerators(source: str, target: str) -> Pair:
    """Without the mark of a key, where both sides have one: "_File", "E&xit", "~Edit", "Datei (&D)"."""
    for mark in "_&~":
        found = [re.findall(rf"\S*{mark}\w\S*", text) for text in (source, target)]
        if len(found[0]) == len(found[1]) == 1 and (found[0] != found[1] or found[0][0].startswith(mark)):
            source, target = (re.sub(rf"{mark}(?=\w)", "", text) for text in (source, target))
    return source, target


def _fits(source: str, target: str) -> bool:
    return LENGTH_RATIO[0] <= len(target) / max(1, len(source)) <= LENGTH_RATIO[1]


def _is_wanted(source: str, target: str) -> bool:
    if not source or source.casefold() == target.casefold() or not _fits(source, target):
        return False
    for text in (source, target):
        solid = text.replace(" ", "")
        if sum(map(str.isalpha, solid)) < MIN_LETTERS * len(solid) or len(text.split()) > MAX_WORDS:
            return False
        if not _LATIN.fullmatch(text):
            return False
    return normalised(source) != normalised(target)
