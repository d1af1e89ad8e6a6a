"""The packed models in the cache folder: listing them, their sources, and removing them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from outpace.core.errors import OutpaceError
from outpace.files.header import read_header
from outpace.files.open import CACHE_FOLDERS, cache_folder, packed_path
from outpace.files.packed import MAGIC, PACKING_VERSION
from outpace.files.regular import open_regular
from outpace.files.whole import remove_abandoned

ID_LENGTH = 12
QUANTIZE = (None, "q8", "q4")
FOLDERS = (
    "dflash",
    "eagle",
    "hydra",
    "markov_heads",
    "medusa",
)  # of trained heads that belong to a packed model
_NAME = re.compile(r"([0-9a-f]{32})\.(.+)")

State = Literal[
    "source present",
    "source gone",
    "source changed",
    "source out of reach",
    "other version",
    "damaged",
    "no model",
]
"""Only a copy whose source is present is used as it is. "no model": tables alone are left."""


@dataclass(frozen=True, slots=True)
class PackedCopy:
    """A packed model and the tables stored with it.

    id        what `outpace models rm` takes.
    packed    the packed file; None where only tables are left.
    files     all of it, in the order in which it can be deleted; `num_bytes` are theirs.
    source    path of what was packed; "" where it is unknown.
    quantize  "q8", "q4" or None.
    """

    id: str
    packed: Path | None
    files: tuple[Path, ...]
    num_bytes: int
    source: str
    quantize: str | None
    state: State


def packed_copies() -> list[PackedCopy]:
    """All packed models of the cache folder, by source."""
    groups: dict[str, list[Path]] = {}
    folder = cache_folder() / "packed"
    with suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(folder)):
            found, path = _NAME.fullmatch(name), folder / name
            if not found or name.endswith(".part"):
                continue
            if not path.is_dir():
                groups.setdefault(found[1], []).append(path)
            elif found[2] in FOLDERS and not path.is_symlink():
                groups.setdefault(found[1], []).extend(_whole_folder(path))
    copies = [_copy(key, files) for key, files in groups.items()]
    return sorted(copies, key=lambda copy: (copy.source, copy.quantize or "", copy.id))


def matching(model: str) -> list[PackedCopy]:
    """The copies with this id or file, or of this file, folder or hub id, be it there or not."""
    given = Path(os.path.expanduser(model)).absolute()
    path = Path(os.path.realpath(given))
    sources = [path]
    if os.path.isdir(path) and not (path / "config.json").exists():  # a name for the only file in it
        sources += [Path(os.path.realpath(file)) for file in path.glob("*.gguf")]
    names = {str(source) for source in sources}
    keys = {
        packed_path(source, quantize=quantize)
        for source in sources
        if os.path.exists(source)
        for quantize in QUANTIZE
    }
    hub = f"/models--{model.replace('/', '--')}/snapshots/"
    return [
        copy
        for copy in packed_copies()
        if copy.id == model
        or copy.source in names
        or (model.count("/") == 1 and hub in copy.source)
        or not keys.isdisjoint(copy.files)
        or given in copy.files
    ]


def prune(*, dry_run: bool = False) -> Iterator[tuple[str, int]]:
    """Remove files that no start will use; yield a description of each and its number of bytes.

    These are parts left by killed processes, packed models whose source is gone or has changed, with their
    tables, and packed files that are damaged or of another version. The tables of the latter stay: the next
    start packs such a model under the same name. `dry_run` removes nothing.
    """
    for name in CACHE_FOLDERS:
        for part, num_bytes in remove_abandoned(cache_folder() / name, dry_run=dry_run).items():
            yield f"{part.name}, left by a process that was killed", num_bytes
    for copy in packed_copies():
        if copy.state in ("source gone", "source changed"):
            files = copy.files
        elif copy.packed and copy.state in ("other version", "damaged"):
            files = (copy.packed,)
        else:
            continue
        num_bytes = _size(files)
        if not dry_run:
            delete(files)
        origin = f" packed from {copy.source}" if copy.source else ""
        yield f"{copy.id}{origin}, {copy.state}", num_bytes


def delete(files: Iterable[Path]) -> None:
    """Delete files, those too that are gone already, and empty folders; OutpaceError where one cannot be."""
    for file in files:
        try:
            if file.is_dir() and not file.is_symlink():
                file.rmdir()
            else:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise OutpaceError(f"cannot delete {file}: {error.strerror or error}") from None


def _size(files: Iterable[Path]) -> int:
    total = 0
    for file in files:
        with suppress(FileNotFoundError):  # removed meanwhile
            total += 0 if file.is_dir() else file.lstat().st_size
    return total


def _whole_folder(folder: Path) -> list[Path]:
    """What is in a folder, and it: files before the folders that they are in."""
    found = [folder]
    with suppress(FileNotFoundError):  # a training that ends removes folders
        found += folder.rglob("*")
    return sorted(found, key=lambda path: (-len(path.parts), path))


def _copy(key: str, files: list[Path]) -> PackedCopy:
    packed = next((file for file in files if file.suffix == ".outpace"), None)
    source, quantize, state = ("", None, "no model") if packed is None else _origin(packed)
    return PackedCopy(key[:ID_LENGTH], packed, tuple(files), _size(files), source, quantize, state)


def _origin(packed: Path) -> tuple[str, str | None, State]:
    """Source, quantize and state by the header."""
    try:
        with open_regular(packed) as file:
            buffer = np.memmap(file, np.uint8, "r")
            fields, _ = read_header(packed, buffer, magic=MAGIC, version=None, kind="packed model")
        source, quantize = fields["source"]["path"], fields["source"]["quantize"]
        if not isinstance(source, str) or quantize not in QUANTIZE:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):  # ValueError: FormatError, an empty file
        return "", None, "damaged"
    if fields["version"] != PACKING_VERSION:
        return source, quantize, "other version"
    return source, quantize, _state(source, quantize, packed)


def _state(source: str, quantize: str | None, packed: Path) -> State:
    try:
        os.stat(source)
        is_same = packed_path(Path(source), quantize=quantize) == packed
        return "source present" if is_same else "source changed"
    except (FileNotFoundError, NotADirectoryError):
        return "source gone"
    except (OSError, ValueError):  # no right to look, say
        return "source out of reach"
