"""English-German segments from packaged catalogues and manuals: train, dev and test without common sources.

Downloads the packages with apt-get into the folder and installs nothing. A run that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.progress import Progress

from experiments.kit.debian import Apt, Package
from experiments.translation import catalogues, clean, corpus, documents
from experiments.translation.corpus import Segment
from experiments.translation.packages import PACKAGES
from outpace.core.errors import OutpaceError

WORK = Path(__file__).parent / "work"
NUM_DEV, NUM_TEST = 500, 1500
MIN_HELD_OUT_WORDS = 4  # shorter ones are too easy to tell models apart

Content = dict[str, Any]  # of a package, as `_content` makes it


def prepare(work: Path, *, seed: int = 0) -> None:
    """Make the corpus and `sources.json` in a folder."""
    contents = download(work)
    segments = deduplicated(raw_pairs(contents))
    parts = split(segments, seed=seed, num_dev=NUM_DEV, num_test=NUM_TEST)
    for name, part in parts.items():
        corpus.write(work / f"{name}.tsv", part)
    used = Counter(one.origin for part in parts.values() for one in part)
    fields = ("package", "version", "licence", "checksum")
    sources = [{**{field: content[field] for field in fields}, "pairs": used[content["package"]]}
               for content in contents]  # fmt: skip
    (work / "sources.json").write_text(json.dumps(sources, indent=1))
    print("  ".join(f"{name} {len(part)}" for name, part in parts.items()), f" {len(sources)} packages")


def download(work: Path) -> list[Content]:
    """What is of use in each package; kept as `packages/NAME.json`, which a later run reads."""
    folder = work / "packages"
    folder.mkdir(parents=True, exist_ok=True)
    contents, apt = [], None
    with Progress() as progress:
        task = progress.add_task("packages", total=len(PACKAGES))
        for name in PACKAGES:
            progress.update(task, description=f"{name:28.28}")
            path = folder / f"{name}.json"
            if not path.exists():
                apt = apt or Apt(work / "debian")
                part = path.with_suffix(".part")
                part.write_text(json.dumps(_content(apt.fetch(name))), encoding="utf-8")
                part.replace(path)
            contents.append(json.loads(path.read_text(encoding="utf-8")))
            progress.advance(task)
    return contents


def _content(package: Package) -> Content:
    messages: list[tuple[str, str]] = []
    pages: list[tuple[str, str, list[documents.Block]]] = []  # language, key, blocks
    licence = None
    with package.members() as archive:
        for member in archive:
            path = "/" + member.name.removeprefix("./")
            found = documents.place(path)
            is_copyright = path == f"/usr/share/doc/{package.name}/copyright"
            if not member.isfile() or not (found or is_copyright or catalogues.FILE.search(path)):
                continue
            file = archive.extractfile(member)
            assert file is not None
            if is_copyright:
                licence = short_licence(file.read().decode("utf-8", "replace"))
            elif found:
                pages.append((*found, documents.blocks(path, file.read())))
            else:
                messages += catalogues.messages(file.read())
    return {
        "package": package.name,
        "version": package.version,
        "licence": licence or "that of its source package",
        "checksum": package.checksum,
        "messages": messages,
        "pages": pages,
    }


def short_licence(text: str) -> str:
    """The first licence that a Debian copyright file names, else the common ones that it points at."""
    named = re.search(r"^License:[ \t]*(\S.*)$", text, re.MULTILINE)
    if named:
        return named[1].strip()
    common = sorted(set(re.findall(r"common-licenses/([\w.-]*\w)", text)))
    return " ".join(common) or "own, see its copyright file"


def raw_pairs(contents: Iterable[Content]) -> Iterator[Segment]:
    """Messages and the paired paragraphs of pages, which may lie in two packages."""
    pages: dict[str, dict[str, tuple[str, list[documents.Block]]]] = {"en": {}, "de": {}}
    for content in contents:
        origin = content["package"]
        for message, translation in content["messages"]:
            yield Segment(message, translation, origin)
        for language, key, blocks in content["pages"]:
            pages[language][key] = origin, [(marker, text) for marker, text in blocks]
    for key, (origin, german) in pages["de"].items():
        if key in pages["en"]:
            for source, target in documents.align(pages["en"][key][1], german):
                yield Segment(source, target, origin)


def deduplicated(pairs: Iterable[Segment]) -> list[Segment]:
    """Clean segments, one for each source: with the target that it has most often, the first of equals."""
    found: dict[str, dict[str, list[str]]] = defaultdict(dict)  # source -> target -> origins
    for pair in pairs:
        for source, target in clean.segments(pair.source, pair.target):
            found[source].setdefault(target, []).append(pair.origin)
    chosen = []
    for source, targets in found.items():
        target = max(targets, key=lambda one: len(targets[one]))
        chosen.append(Segment(source, target, targets[target][0]))
    return chosen


def split(segments: Iterable[Segment], *, seed: int, num_dev: int, num_test: int) -> dict[str, list[Segment]]:
    """train, dev, test. What is held out is in train neither as it is nor in other case or punctuation.

    The choice depends on a segment and the seed alone, so a few packages more change little of it.
    """
    by_key: dict[str, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_key[clean.normalised(segment.source)].append(segment)
    order = sorted(by_key, key=lambda key: hashlib.sha256(f"{seed} {key}".encode()).digest())
    held_out = [key for key in order if len(key.split()) >= MIN_HELD_OUT_WORDS][: num_dev + num_test]
    if len(held_out) < num_dev + num_test:
        raise OutpaceError(f"{len(held_out)} segments could be held out, {num_dev + num_test} are wanted")
    chosen = frozenset(held_out)
    return {
        "train": [one for key in order if key not in chosen for one in by_key[key]],
        "dev": [by_key[key][0] for key in held_out[:num_dev]],
        "test": [by_key[key][0] for key in held_out[num_dev:]],
    }
