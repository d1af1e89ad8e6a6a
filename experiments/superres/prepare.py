"""Patches of packaged photographs, 32 x 32 in colour: train, dev and test from different photographs.

Downloads about 270 MB with apt-get into the folder and installs nothing. A run that was interrupted goes on.
A photograph is made smaller, to several sizes, so that a patch of it shows something; of every size it gives
patches at random places, half of them mirrored. Patches with next to no contrast are left out.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from experiments.kit.debian import Apt
from experiments.superres.photographs import PHOTOGRAPHS, Photograph
from experiments.superres.pictures import PATCHES, SIDE, SOURCES, luminance
from outpace.core.errors import OutpaceError

APT = "apt"
NUM_PATCHES = {"train": 40_000, "dev": 512, "test": 512}
LONGEST, SHORTEST = 1024, 224  # of a photograph's long side, when patches are taken
NUM_SIZES = 12
LEAST_CONTRAST = 8.0  # standard deviation of a patch's luminance, in levels
TRIES = 4  # places looked at for each patch that is wanted


def prepare(work: Path, *, seed: int) -> None:
    """Make work/patches.npz and work/sources.json, unless they are there."""
    if (work / PATCHES).exists() and (work / SOURCES).exists():
        print(f"{work / PATCHES} is there already")
        return
    sources = fetch(work)
    print(f"{len(sources)} photographs")
    splits: dict[str, list[NDArray[np.uint8]]] = {split: [] for split in NUM_PATCHES}
    shares = {
        split: math.ceil(count / sum(photo.split == split for photo, _ in sources))
        for split, count in NUM_PATCHES.items()
    }
    for photo, source in track(sources, "patches"):
        random = np.random.default_rng((seed, int(source["sha256"][:8], 16)))
        picture = Image.open(work / "photographs" / source["kept"])
        found = patches(picture, shares[photo.split], random)
        source["patches"] = len(found)
        splits[photo.split].append(found)
    joined: dict[str, Any] = {split: np.concatenate(parts) for split, parts in splits.items()}
    part = work / f"{PATCHES}.part"
    with part.open("wb") as file:
        np.savez(file, **joined)
    part.replace(work / PATCHES)
    (work / SOURCES).write_text(json.dumps([source for _, source in sources], indent=1) + "\n")
    print(", ".join(f"{len(some)} {split} patches" for split, some in joined.items()))


def fetch(work: Path) -> list[tuple[Photograph, dict[str, Any]]]:
    """The photographs as files in work/photographs, each with where it comes from."""
    apt = Apt(work / APT)
    kept = work / "photographs"
    kept.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(photo.package for photo in PHOTOGRAPHS))
    sources = []
    for name in track(names, "packages"):
        package = apt.fetch(name)
        wanted = {photo.file: photo for photo in PHOTOGRAPHS if photo.package == name}
        with package.members() as members:
            for member in members:
                path = member.name.removeprefix("./")
                if path not in wanted and path != f"usr/share/doc/{name}/copyright":
                    continue
                file = members.extractfile(member)
                assert file is not None
                content = file.read()
                if path not in wanted:
                    (kept / f"{name}.copyright").write_bytes(content)
                    continue
                photo = wanted.pop(path)
                file_name = f"{photo.name}{Path(path).suffix}"
                (kept / file_name).write_bytes(content)
                source = {
                    "package": name, "version": package.version, "deb": package.checksum, "file": path,
                    "sha256": hashlib.sha256(content).hexdigest(), "licence": photo.licence,
                    "split": photo.split, "kept": file_name,
                }  # fmt: skip
                sources.append((photo, source))
        if wanted:
            raise OutpaceError(f"{name} {package.version} has no {', '.join(wanted)}; see photographs.py")
    return sorted(sources, key=lambda pair: PHOTOGRAPHS.index(pair[0]))


def patches(picture: Image.Image, count: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """u8[up to count, 32, 32, 3] of a photograph, in the order of its sizes."""
    picture = picture.convert("RGB")
    longest = min(LONGEST, max(picture.size))
    sizes = np.geomspace(SHORTEST, longest, NUM_SIZES)
    share = math.ceil(count / NUM_SIZES)
    found: list[NDArray[np.uint8]] = []
    for size in sizes:
        scale = size / max(picture.size)
        width, height = (max(SIDE, round(side * scale)) for side in picture.size)
        small = np.asarray(picture.resize((width, height), Image.Resampling.BOX))
        found += _some(small, share, random)
    return np.stack(found[:count]) if found else np.empty((0, SIDE, SIDE, 3), np.uint8)


def _some(picture: NDArray[np.uint8], count: int, random: np.random.Generator) -> list[NDArray[np.uint8]]:
    """Up to `count` patches of a picture u8[H, W, 3] that have contrast."""
    found: list[NDArray[np.uint8]] = []
    for _ in range(TRIES * count):
        y, x = (int(random.integers(side - SIDE + 1)) for side in picture.shape[:2])
        patch = picture[y : y + SIDE, x : x + SIDE]
        if random.random() < 0.5:
            patch = patch[:, ::-1]
        if luminance(patch).std() >= LEAST_CONTRAST:
            found.append(patch)
            if len(found) == count:
                break
    return found
