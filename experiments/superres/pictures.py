"""Patches on disk as pictures for the model: luminance or colour, each with its small version."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.pixel_model import PixelConfig

WORK = Path(__file__).parent / "work"
PATCHES, SOURCES = "patches.npz", "sources.json"
SIDE = 32


@dataclass(frozen=True, slots=True)
class Pictures:
    """large u8[n, H, W, C] and small u8[n, h, w, C], the mean of each block."""

    large: NDArray[np.uint8]
    small: NDArray[np.uint8]

    @classmethod
    def of(cls, large: NDArray[np.uint8], config: PixelConfig) -> Pictures:
        """With their small versions."""
        count, factor = len(large), config.factor
        height, width, channels = config.small_shape
        blocks = large.reshape(count, height, factor, width, factor, channels)
        return cls(large, np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8))

    @property
    def data_hash(self) -> str:
        """Names the pictures."""
        return f"sha256:{hashlib.sha256(self.large.tobytes()).hexdigest()}"

    def batch(self, size: int, seed: int, step: int) -> dict[str, Tensor]:
        """A step's pictures, for training: a pass over all in random order, then another."""
        count = len(self.large)
        each = max(1, count // size)
        order = np.random.default_rng((seed, step // each)).permutation(count)
        return self.picked(order[step % each * size :][:size])

    def picked(self, numbers: NDArray[np.integer] | slice) -> dict[str, Tensor]:
        """Some of them as the model's `small` and `labels`."""
        lines = self.large[numbers].reshape(len(self.large[numbers]), -1).astype(np.int64)
        return {"small": torch.from_numpy(self.small[numbers]), "labels": torch.from_numpy(lines)}


def read(work: Path, split: str, config: PixelConfig) -> Pictures:
    """The pictures of a split."""
    path = work / PATCHES
    if not path.exists():
        raise OutpaceError(f"{path} is missing, run `python -m experiments.superres.prepare` first")
    with np.load(path) as file:
        patches: NDArray[np.uint8] = file[split]
    large = luminance(patches).round().astype(np.uint8)[..., None] if config.channels == 1 else patches
    return Pictures.of(large, config)


def luminance(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[..., 3] -> f64[...], as in Rec. 601."""
    weighed: NDArray[np.float64] = patches @ np.array([0.299, 0.587, 0.114])
    return weighed
