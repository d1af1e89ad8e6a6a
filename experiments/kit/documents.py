"""Manuals as lists of blocks (marker, text): a roff macro or markup tag, and the text up to the next."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from html.parser import HTMLParser

Block = tuple[str, str]


def blocks(path: str, content: bytes) -> list[Block]:
    """The blocks of a man page or a page of markup; none where the bytes are no text."""
    if path.endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError):
            return []
        return list(_roff(content.decode("utf-8", "replace")))
    parser = _Markup()
    parser.feed(content.decode("utf-8", "replace"))
    parser.flush("")
    return parser.blocks


# --- roff ---------------------------------------------------------------------------------------------

_INLINE = frozenset(("B", "I", "BR", "RB", "IR", "RI", "BI", "IB", "SM", "SB"))
_ESCAPES = (
    (re.compile(r"\\f(\[\w*\]|\(..|.)|\\[,/&|^%:c]|\\s[-+]?\d"), ""),
    (re.compile(r"\\\(aq|\\\[aq\]|\\\(cq|\\\[cq\]"), "'"),
    (re.compile(r"\\\([lr]q|\\\[[lr]q\]|\\\(dq"), '"'),
    (re.compile(r"\\-|\\\((en|hy|mi)|\\\[(en|hy)\]"), "-"),
    (re.compile(r"\\\(em|\\\[em\]"), "—"),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\e|\\\(rs|\\\\"), r"\\"),
    (re.compile(r"\\\(bu|\\\[bu\]"), "•"),
)


def _roff(text: str) -> Iterator[Block]:
    words: list[str] = []
    marker, literal, tag_next = "", False, False

    def flushed() -> Iterator[Block]:
        paragraph = " ".join(words)
        for pattern, replacement in _ESCAPES:
            paragraph = pattern.sub(replacement, paragraph)
        words.clear()
        # An escape that is not known here would be in the text; such a paragraph keeps its place alone.
        if paragraph.strip():
            yield marker, "" if re.search(r"\\[^\\]", paragraph) else paragraph

    for line in text.splitlines():
        macro, _, rest = line[1:].strip().partition(" ") if line.startswith((".", "'")) else ("", "", line)
        if line.startswith((r".\"", r"'\"", r"\.")):
            continue
        if macro in ("nf", "EX", "TS", "fi", "EE", "TE"):
            yield from flushed()
            literal, marker = macro in ("nf", "EX", "TS"), macro
        elif literal:
            continue
        elif macro in _INLINE:
            pieces = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', rest)]
            words.append(("" if len(macro) == 2 and macro not in ("SM", "SB") else " ").join(pieces))
        elif macro in ("SH", "SS"):
            yield from flushed()
            marker = macro
            words.append(rest.strip('"'))
            yield from flushed()
            marker = "text"
        elif line.startswith((".", "'")) or not line.strip():
            yield from flushed()
            marker, tag_next = macro or "PP", macro == "TP"
            continue
        else:
            words.append(line.strip())
        if tag_next and words:  # the line after .TP is the tag, the text comes below it
            yield from flushed()
            marker, tag_next = "text", False
    yield from flushed()


# --- markup -------------------------------------------------------------------------------------------

_BLOCKS = frozenset("p h1 h2 h3 h4 h5 h6 li td th dt dd title desc item caption div note section".split())
_SKIPPED = frozenset(("script", "style", "pre", "screen", "head", "info", "svg", "nav", "textarea"))


class _Markup(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._words: list[str] = []
        self._marker = ""
        self._skipped = 0

    def flush(self, marker: str) -> None:
        # LibreOffice's help has a line for its makers on every page.
        text = " ".join("".join(self._words).split()).removeprefix("Title is: ")
        if text:
            self.blocks.append((self._marker, text))
        self._words.clear()
        self._marker = marker

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._skipped += tag in _SKIPPED
        if tag in _BLOCKS | _SKIPPED:
            self.flush(tag)

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in _SKIPPED and self._skipped > 0
        if tag in _BLOCKS | _SKIPPED:
            self.flush("/" + tag)

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._words.append(data)
