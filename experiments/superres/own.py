"""Greedy pictures of the base model, to train on in place of real ones: distillation from itself.

What the heads have to guess when they are used is what the model writes, and that is more predictable than
photographs. Written in parts, so that an interrupted run goes on.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from experiments.superres import pictures
from experiments.superres.decoding import decode
from experiments.superres.pictures import Pictures
from experiments.superres.scales import Scale
from outpace.progress import progress_bar
from outpace.targets.pixel import PixelTarget
from outpace.targets.pixel_model import PixelModel

OWN = "own"
PART = 32  # pictures


def write_own(patches: Path, folder: Path, model: PixelModel, scale: Scale) -> Pictures:
    """Small training pictures, `own_pictures` of them, evenly spread, with what the model makes of them."""
    data = pictures.read(patches, "train", scale.config)
    numbers = np.linspace(0, len(data.large) - 1, scale.own_pictures).astype(int)
    folder.mkdir(parents=True, exist_ok=True)
    target = PixelTarget(model)
    parts = []
    with progress_bar() as progress:
        for first in range(0, len(numbers), PART):
            path = folder / f"{first:05}.npy"
            smalls = data.small[numbers[first : first + PART]]
            if not path.exists():
                written = [generation.token_ids for generation in decode(target, smalls)]
                part = path.with_suffix(f".{os.getpid()}.part")
                with part.open("wb") as file:
                    np.save(file, np.array(written).reshape(-1, *data.large.shape[1:]).astype(np.uint8))
                part.replace(path)
            parts.append(np.load(path))
            if progress is not None:
                progress(first + len(smalls), len(numbers), "own pictures")
    return Pictures(np.concatenate(parts), data.small[numbers])
