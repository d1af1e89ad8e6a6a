"""Paragraphs of English prose from the files of a package; tables, menus and code are left out."""

from __future__ import annotations

import gzip
import html
import re
import zlib
from collections.abc import Iterator

from experiments.kit.documents import blocks

MIN_WORDS = 8
MAX_CHARACTERS = 5000  # of a paragraph; longer ones are lists of names as a rule
MAX_WORD = 40  # characters; longer ones are paths and keys
MIN_LETTERS = 0.75  # of what is not space
MAX_SYMBOLS = 0.15  # of the words: those with a sign that prose has not
MIN_COMMON = 0.2  # of the words: the commonest English ones
ENTRIES = 30  # of a dictionary, that make one document

_PAGE = re.compile(r"^/usr/share/man/man\d/[^/]+\.gz$")
_MARKUP = re.compile(r"\.(x?html?|page)(\.en|\.gz)?$")
_TEXT = re.compile(r"^/usr/share/vim/\w+/doc/\w+\.txt$")
_DICTIONARY = re.compile(r"\.dict\.dz$")

# HTMLParser takes four times as long, and paragraphs that this reads wrongly are hardly prose.
_HIDDEN = re.compile(
    r"<!--.*?-->|<(script|style|pre|screen|programlisting|head|nav|svg|textarea)\b.*?</\1\s*>",
    re.DOTALL | re.I,
)
_BORDER = re.compile(
    r"</?(?:p|h\d|li|ul|ol|dl|dt|dd|td|th|tr|table|title|desc|item|caption|div|note|section|blockquote|body|center"
    r"|hr|hidden|header|footer|main|article|aside|figure|figcaption|form|select|option|button)\b[^<>]*>",
    re.I,
)
_BREAK = re.compile(r"<br\b[^<>]*>", re.I)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_PLAIN = str.maketrans({
    "\xa0": " ", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2010": "-",
    "\u2011": "-", "\u2026": "...", "\xb6": "", "\xad": "", "\u200b": "", "\ufeff": "", "\uf0c1": "",
})  # fmt: skip
_START = re.compile(r"[\"'(]{0,2}[A-Z0-9]")
_END = re.compile(r"[.!?:][\"')]{0,2}$")
_ODD = re.compile(r"&\w+;|</|\\f|\\\(|\$\{|\{\{|^\d+$|\.{5}|\[\[")
_SYMBOL = re.compile(r"[_<>{}=\\|@#$%^*~]|\w\(|::|/\w*/|->")
_REST = re.compile(r" (More\.\.\.|\[More\])$")  # a link of Doxygen's
_NOTES = re.compile(r"\s*(?:\\[^\\\n]*\\|\[[^\[\]]{1,300}\])|[{}]")  # of a dictionary: sounds, sources, links
_COMMON = frozenset(
    "the of and to a in is that for it as with be by on or this are an you can if from not which at will "
    "have was has but may must when your all one its their they these there no he his been were had who "
    "we i use into more other than then only also such any each so".split()
)


def is_wanted(path: str) -> bool:
    """Whether a file of a package may have English prose in a form that is read here."""
    return any(kind.search(path) for kind in (_PAGE, _MARKUP, _TEXT, _DICTIONARY))


def documents(path: str, content: bytes) -> list[list[str]]:
    """The documents of a file, each a list of its paragraphs of prose; none where it has none."""
    if _PAGE.search(path):
        raw = [text for _, text in blocks(path, content)]
    else:
        try:
            content = gzip.decompress(content) if path.endswith((".gz", ".dz")) else content
        except (OSError, EOFError, zlib.error):
            return []
        text = content.decode("utf-8", "replace")
        if _DICTIONARY.search(path):
            return list(_entries(text))
        raw = _plain_paragraphs(text) if _TEXT.search(path) else list(_marked_paragraphs(text))
    found = paragraphs(raw)
    return [found] if found else []


def paragraphs(raw: list[str]) -> list[str]:
    """Those that are prose, without what is not text."""
    cleaned = (_REST.sub("", " ".join(text.translate(_PLAIN).split())) for text in raw)
    return [text for text in cleaned if is_prose(text)]


def is_prose(text: str) -> bool:
    """Whether a paragraph is of English sentences, by its signs and its commonest words."""
    words = text.split()
    if len(words) < MIN_WORDS or len(text) > MAX_CHARACTERS or max(map(len, words)) > MAX_WORD:
        return False
    if not _START.match(text) or not _END.search(text) or _ODD.search(text):
        return False
    solid = "".join(words)
    if (
        sum(map(str.isalpha, solid)) < MIN_LETTERS * len(solid)
        or sum(map(str.isascii, solid)) < len(solid) - 2
    ):
        return False
    if sum(_SYMBOL.search(word) is not None for word in words) > MAX_SYMBOLS * len(words):
        return False
    return sum(word.strip(".,;:()\"'").lower() in _COMMON for word in words) >= MIN_COMMON * len(words)


def key(text: str) -> str:
    """What two paragraphs share that differ only in case, numbers, punctuation and spaces."""
    return " ".join(re.findall(r"[^\W\d]+", text.casefold()))


def _plain_paragraphs(text: str) -> list[str]:
    return re.split(r"\n\s*\n", text)


def _marked_paragraphs(text: str) -> Iterator[str]:
    for part in _BORDER.split(_HIDDEN.sub("<hidden>", text)):
        yield html.unescape(_TAG.sub("", _BREAK.sub(" ", part)))


def _entries(text: str) -> Iterator[list[str]]:
    """Those of a dictionary of dictd: a line for the word, and lines for it that are indented."""
    entries = re.split(r"\n(?=\S)", _NOTES.sub("", text))
    prose = [found for entry in entries if (found := paragraphs(_plain_paragraphs(entry)))]
    for start in range(0, len(prose), ENTRIES):
        yield [paragraph for entry in prose[start : start + ENTRIES] for paragraph in entry]
