"""scikit-learn's digits (UCI ML hand-written digits, 1,797 pictures of 8 x 8) from its Debian package.

Super-resolution's photographs come from that package as well, so that there is nothing else to download.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.kit.debian import Apt
from outpace.core.errors import OutpaceError

DIGITS_FILE = "digits.npz"
PACKAGE = "python3-sklearn"
FILE = "usr/lib/python3/dist-packages/sklearn/datasets/data/digits.csv.gz"
SIDE, LEVELS = 8, 16
TEST = 397


def prepare_digits(apt: Path, path: Path) -> None:
    """Make the file: arrays train and test, u8[n, 8, 8, 3] with equal channels. apt: the folder of `Apt`."""
    if path.exists():
        return
    package = Apt(apt).fetch(PACKAGE)
    with package.members() as members:
        for member in members:
            if member.name.removeprefix("./") == FILE:
                file = members.extractfile(member)
                assert file is not None
                pictures = read_digits(gzip.decompress(file.read()).decode())
                break
        else:
            raise OutpaceError(f"{PACKAGE} {package.version} has no {FILE}; accepted is one that has")
    order = np.random.default_rng(0).permutation(len(pictures))
    part = path.with_suffix(".part")
    with part.open("wb") as out:
        np.savez(out, train=pictures[order[TEST:]], test=pictures[order[:TEST]])
    part.replace(path)


def read_digits(text: str) -> NDArray[np.uint8]:
    """u8[n, 8, 8, 3] of lines with 64 intensities 0 to 16 and the digit."""
    rows = np.array([line.split(",") for line in text.split()], np.float64)
    grey = np.rint(rows[:, :-1] * (255 / LEVELS)).astype(np.uint8).reshape(-1, SIDE, SIDE, 1)
    return np.repeat(grey, 3, axis=3)
