"""English-German segments from packaged catalogues and manuals: train, dev and test without common sources.

Downloads the packages with apt-get into the folder and installs nothing. A run that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.kit.debian import Content, about, gather
from experiments.kit.documents import Block, blocks
from experiments.translation import catalogues, clean, corpus, documents
from experiments.translation.corpus import Segment
from experiments.translation.packages import PACKAGES
from outpace.core.errors import OutpaceError

WORK = Path(__file__).parent / "work"
NUM_DEV, NUM_TEST = 500, 1500
MIN_HELD_OUT_WORDS = 4  # shorter ones are too easy to tell models apart


def prepare(work: Path, *, seed: int = 0) -> None:
    """Make the corpus and `sources.json` in a folder."""
    contents = download(work)
    segments = deduplicated(raw_pairs(contents))
    parts = split(segments, seed=seed, num_dev=NUM_DEV, num_test=NUM_TEST)
    for name, part in parts.items():
        corpus.write(work / f"{name}.tsv", part)
    used = Counter(one.origin for part in parts.values() for one in part)
    sources = [{**about(content), "pairs": used[content["package"]]} for content in contents]
    (work / "sources.json").write_text(json.dumps(sources, indent=1))
    print("  ".join(f"{name} {len(part)}" for name, part in parts.items()), f" {len(sources)} packages")


def download(work: Path) -> list[Content]:
    """What is of use in each package; kept as `packages/NAME.json`, which a later run reads."""
    return list(gather(work, PACKAGES, is_wanted=_is_wanted, read=_read))


def _is_wanted(path: str) -> bool:
    return documents.place(path) is not None or catalogues.FILE.search(path) is not None


def _read(files: Iterable[tuple[str, bytes]]) -> Content:
    messages: list[tuple[str, str]] = []
    pages: list[tuple[str, str, list[Block]]] = []  # language, key, blocks
    for path, content in files:
        if found := documents.place(path):
            pages.append((*found, blocks(path, content)))
        else:
            messages += catalogues.messages(content)
    return {"messages": messages, "pages": pages}


def raw_pairs(contents: Iterable[Content]) -> Iterator[Segment]:
    """Messages and the paired paragraphs of pages, which may lie in two packages."""
    pages: dict[str, dict[str, tuple[str, list[Block]]]] = {"en": {}, "de": {}}
    for content in contents:
        origin = content["package"]
        for message, translation in content["messages"]:
            yield Segment(message, translation, origin)
        for language, key, page in content["pages"]:
            pages[language][key] = origin, [(marker, text) for marker, text in page]
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
