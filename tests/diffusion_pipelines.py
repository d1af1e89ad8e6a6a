"""A tiny U-Net of diffusers with random weights, and a pipeline of it that is saved in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def tiny_unet(**options: Any) -> Any:
    """UNet2DModel for images [3, 8, 8], in evaluation mode."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "sample_size": 8,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    }
    return UNet2DModel(**(sizes | options)).eval()


def save_pipeline(folder: Path, **options: Any) -> Path:
    """A DDPMPipeline of it, on disk. options: of the U-Net."""
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(unet=tiny_unet(**options), scheduler=DDPMScheduler()).save_pretrained(folder)
    return folder
