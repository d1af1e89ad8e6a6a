"""Pictures of samples: from -1 ... 1 to what diffusers' pipelines return, and a grid of them in one file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from outpace.core.errors import OutpaceError

if TYPE_CHECKING:
    from PIL.Image import Image

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def check_output_type(output_type: str, shape: tuple[int, ...]) -> None:
    """Raises OutpaceError where samples of this shape cannot be given as this type."""
    if output_type not in OUTPUT_TYPES:
        raise OutpaceError(f"output_type is {output_type!r}, accepted are {', '.join(OUTPUT_TYPES)}")
    if output_type != "latent" and len(shape) != 3:
        raise OutpaceError(f"samples of shape {shape} are no images; accepted is output_type='latent'")
    if output_type == "pil" and shape[0] not in (1, 3):
        raise OutpaceError(f"images of {shape[0]} channels; accepted are 1 or 3, or output_type='np'")


def converted(samples: torch.Tensor, output_type: str) -> Any:
    """Samples [n, C, H, W] as one of `OUTPUT_TYPES`, as pipelines of diffusers give them.

    pil     n images of PIL. np: f32[n, H, W, C] in 0 ... 1. pt: [n, C, H, W] in 0 ... 1.
    latent  the samples themselves, of any shape.
    """
    if output_type == "latent":
        return samples
    images = (samples / 2 + 0.5).clamp(0, 1)
    if output_type == "pt":
        return images
    array = images.permute(0, 2, 3, 1).float().cpu().numpy()
    if output_type == "np":
        return array
    pillow = _pillow()
    return [pillow.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in _bytes(array)]


def grid(samples: torch.Tensor) -> Image:
    """One image of all samples [n, C, H, W], nearly square, with a pixel of white between them."""
    check_output_type("pil", tuple(samples.shape[1:]))
    num, channels, height, width = samples.shape
    columns = math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    canvas = torch.ones(1, channels, rows * (height + 1) - 1, columns * (width + 1) - 1)
    for index, sample in enumerate(samples.cpu()):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        canvas[0, :, top : top + height, left : left + width] = sample
    image: Image = converted(canvas, "pil")[0]
    return image


def _bytes(images: Any) -> Any:
    return (images * 255).round().astype("uint8")


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise OutpaceError(
            f"images need the extra diffusion (pip install 'outpace[diffusion]'): {error}"
        ) from None
    return Image
