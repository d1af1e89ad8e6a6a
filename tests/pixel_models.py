"""Tiny pixel models with random weights, and a target whose pictures are all written from one small one."""

from __future__ import annotations

import numpy as np
import torch

from outpace.core.call import Source
from outpace.targets.pixel import PixelTarget, SmallPicture
from outpace.targets.pixel_model import PixelConfig, PixelModel


def tiny_pixel_model(**changes: int) -> PixelModel:
    """A model in f32 whose logits differ clearly. `changes` replace values of the configuration."""
    sizes = dict(height=8, width=8, hidden_size=16, num_layers=2, num_heads=2, feedforward_size=24, window=16)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = PixelModel(PixelConfig(**sizes | changes)).eval()
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            if parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise * parameter[0].numel() ** -0.5)
        model.embedding.weight *= 6  # so strong that the next token depends on the last ones
        model.output.weight *= 3
    return model


def small_pictures(model: PixelModel, count: int, *, seed: int = 0) -> np.ndarray:
    """u8[count, h, w, C] at random."""
    shape = (count, *model.config.small_shape)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


class OnePicture(PixelTarget):
    """For tests of targets in general: every prompt is written from the same small picture."""

    def __init__(self, model: PixelModel) -> None:
        super().__init__(model)
        (self.small,) = small_pictures(model, 1)

    def open(self, source: Source | None = None) -> int:
        return super().open(source or SmallPicture(self.small))
