"""Patches on disk as pictures for the model: luminance or colour, each with its small version."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.core.errors import OutpaceError
from outpace.targets.pixel_model import NUM_LEVELS, PixelConfig

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
        return cls(large, _block_means(large, config.factor))

    @property
    def data_hash(self) -> str:
        """Names the pictures."""
        return f"sha256:{hashlib.sha256(self.large.tobytes()).hexdigest()}"

    def batch(self, size: int, seed: int, step: int, jitter: float = 0.0) -> dict[str, Tensor]:
        """A step's pictures, for training: a pass over all in random order, then another.

        `read` is what a model reads of them, `jittered`; absent where that is the pictures as they are.
        """
        count = len(self.large)
        each = max(1, count // size)
        order = np.random.default_rng((seed, step // each)).permutation(count)
        picked = self.picked(order[step % each * size :][:size])
        if not jitter:
            return picked
        return {**picked, "read": jittered(picked["labels"], jitter, np.random.default_rng((seed, step, 1)))}

    def picked(self, numbers: NDArray[np.integer] | slice) -> dict[str, Tensor]:
        """Some of them as the model's `small` and `labels`."""
        lines = self.large[numbers].reshape(len(self.large[numbers]), -1).astype(np.int64)
        return {"small": torch.from_numpy(self.small[numbers]), "labels": torch.from_numpy(lines)}


def jittered(labels: Tensor, jitter: float, random: np.random.Generator) -> Tensor:
    """i64[B, N] with normal noise, its deviation drawn for each picture from 0 to `jitter` levels.

    A model that has read the truth alone believes what it has written itself, and drifts away from the small
    picture.
    """
    noise = random.normal(size=labels.shape) * random.uniform(0, jitter, (len(labels), 1))
    return (labels + torch.from_numpy(noise)).round().clamp(0, NUM_LEVELS - 1).long()


@lru_cache(maxsize=8)
def read(patches: Path, split: str, config: PixelConfig) -> Pictures:
    """The pictures of a split; patches that are larger than the model's pictures are made smaller."""
    if not patches.exists():
        raise OutpaceError(f"{patches} is missing, run `python -m experiments.superres.run` first")
    try:
        with patches.open("rb") as file, np.load(file) as arrays:
            colour: NDArray[np.uint8] = arrays[split]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise OutpaceError(f"{patches} cannot be read ({error}); remove it and prepare anew") from None
    large = luminance(colour).round().astype(np.uint8)[..., None] if config.channels == 1 else colour
    if not len(large) or large.shape[1] % config.height or large.shape[2] % config.width:
        raise OutpaceError(
            f"{patches} has {split} patches {list(large.shape)}, accepted are multiples of "
            f"{config.height} x {config.width}"
        )
    return Pictures.of(_block_means(large, large.shape[1] // config.height), config)


def _block_means(pictures: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """u8[n, H, W, C], `factor` times smaller on each side."""
    count, height, width, channels = pictures.shape
    blocks = pictures.reshape(count, height // factor, factor, width // factor, factor, channels)
    return np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8)


def luminance(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
    """[..., 3] -> f64[...], as in Rec. 601."""
    weighed: NDArray[np.float64] = patches @ np.array([0.299, 0.587, 0.114])
    return weighed
