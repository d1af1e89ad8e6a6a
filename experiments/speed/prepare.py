"""English prose of packaged manuals, books and dictionaries: train, dev and test without common paragraphs.

Downloads the packages with apt-get into the folder and installs nothing. A run that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from experiments.kit.debian import Content, Files, about, gather
from experiments.speed import corpus, prose
from experiments.speed.packages import PACKAGES
from outpace.core.errors import OutpaceError

WORK = Path(__file__).parent / "work"
MAX_CHARACTERS = 2_500_000  # of a package, so that none of them is most of the corpus
MIN_CHARACTERS = 300  # of a document
HELD_OUT = 0.01  # of all characters, for dev and for test each
MAX_SHARE = 0.05  # of dev or test: no document there is longer


@dataclass(frozen=True, slots=True)
class Document:
    """Paragraphs of one file, and the package that it comes from."""

    paragraphs: tuple[str, ...]
    origin: str

    @property
    def size(self) -> int:
        """Its characters."""
        return sum(map(len, self.paragraphs))


def prepare(work: Path, *, seed: int = 0) -> None:
    """Make the texts and `sources.json` in a folder. Tokens of older texts are removed."""
    sources: list[dict[str, str]] = []
    parts = split(chosen(download(work), sources, seed=seed), seed=seed)
    for old in work.glob("tokens-*"):
        shutil.rmtree(old)
    used: Counter[str] = Counter()
    for name, part in parts.items():
        corpus.write(work, name, [one.paragraphs for one in part])
        for one in part:
            used[one.origin] += one.size
    listed = [{**one, "characters": used[one["package"]]} for one in sources]
    (work / "sources.json").write_text(json.dumps(listed, indent=1))
    sizes = {name: sum(one.size for one in part) for name, part in parts.items()}
    print(
        "  ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items()), f" {len(sources)} packages"
    )


def download(work: Path) -> Iterable[Content]:
    """The prose of each package; kept as `packages/NAME.json`, which a later run reads."""
    return gather(work, PACKAGES, is_wanted=prose.is_wanted, read=_read)


def _read(files: Files) -> Content:
    return {"documents": [one for path, content in files for one in prose.documents(path, content)]}


def chosen(contents: Iterable[Content], sources: list[dict[str, str]], *, seed: int) -> list[Document]:
    """The documents of the packages, each paragraph once, as many as a package may have; fills `sources`."""
    seen: set[bytes] = set()
    documents = []
    for content in contents:
        sources.append(about(content))
        fresh = []
        for raw in content["documents"]:
            paragraphs = []
            for paragraph in raw:
                digest = _digest(prose.key(paragraph))
                if digest not in seen:
                    seen.add(digest)
                    paragraphs.append(paragraph)
            document = Document(tuple(paragraphs), content["package"])
            if document.size >= MIN_CHARACTERS:
                fresh.append(document)
        room = MAX_CHARACTERS
        for document in shuffled(fresh, seed=seed):
            if document.size <= room:
                documents.append(document)
                room -= document.size
    return documents


def split(documents: Iterable[Document], *, seed: int) -> dict[str, list[Document]]:
    """train, dev, test, each shuffled. The order depends on the texts and the seed alone."""
    order = shuffled(documents, seed=seed)
    room = HELD_OUT * sum(one.size for one in order)
    parts: dict[str, list[Document]] = {name: [] for name in corpus.NAMES}
    left = {"dev": room, "test": room}
    for document in order:
        name = next(
            (one for one, free in left.items() if document.size <= min(free, MAX_SHARE * room)), "train"
        )
        parts[name].append(document)
        if name in left:
            left[name] -= document.size
    for name, part in parts.items():
        if not part:
            raise OutpaceError(
                f"too few documents for {name}: {len(order)} of {room / HELD_OUT:.0f} characters"
            )
    return parts


def shuffled(documents: Iterable[Document], *, seed: int) -> list[Document]:
    """In an order of chance that stays nearly the same when some documents come or go."""
    return sorted(documents, key=lambda one: _digest(f"{seed} {' '.join(one.paragraphs)}"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
