"""English and German messages of a package's compiled catalogues (.mo)."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator

import polib

FILE = re.compile(r"/de(_DE)?/LC_MESSAGES/[^/]+\.mo$")


def messages(content: bytes) -> Iterator[tuple[str, str]]:
    """(message, translation) of a .mo file; none where it is damaged, as some that test tools are."""
    with tempfile.NamedTemporaryFile(suffix=".mo") as file:
        file.write(content)
        file.flush()
        try:
            catalogue = polib.mofile(file.name)
        except (OSError, ValueError):
            return
    for entry in catalogue:
        if entry.msgid_plural and len(entry.msgstr_plural) == 2:
            yield entry.msgid, entry.msgstr_plural[0]
            yield entry.msgid_plural, entry.msgstr_plural[1]
        elif entry.msgstr:
            yield entry.msgid, entry.msgstr
