"""Train denoising models of small images: diffusers' UNet2DModel and DDPMScheduler, saved as a pipeline.

DDPM (Ho, Jain & Abbeel 2020, arXiv:2006.11239) with the cosine schedule of Nichol & Dhariwal 2021
(arXiv:2102.09672) and v prediction (Salimans & Ho 2022, arXiv:2202.00512), which says the clean image well at
every level; a moving average of the weights is kept. The folder is diffusers' own: any of its tools opens it.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch.nn.functional import mse_loss

from experiments.diffusion.scales import Network
from experiments.kit.averages import train_averaged_within
from experiments.kit.trainings import LossOf
from experiments.superres.pictures import Pictures
from outpace.train.loop import Loss

PIPELINE = "pipeline"


def train_denoiser(
    folder: Path,
    images: Pictures,
    network: Network,
    minutes: float,
    *,
    steps: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> None:
    """Into folder/pipeline, unless it is there. steps: in place of minutes."""
    scheduler = make_scheduler()

    def loss_of(model: UNet2DModel) -> LossOf:
        def loss(step: int, random: torch.Generator) -> Loss:
            picked = images.batch(network.batch, seed, step)["labels"]
            clean = as_tensor(picked.reshape(-1, network.side, network.side, network.channels))
            times = torch.randint(scheduler.config.num_train_timesteps, (len(clean),), generator=random)
            noise = torch.randn(clean.shape, generator=random)
            noisy = scheduler.add_noise(clean, noise, times)
            wanted = scheduler.get_velocity(clean, noise, times)
            said = model(noisy.to(device), times.to(device)).sample
            return Loss(mse_loss(said, wanted.to(device)), picked.numel())

        return loss

    def finish(model: UNet2DModel, where: Path, steps: int) -> dict[str, Any]:
        DDPMPipeline(model, scheduler).save_pretrained(where / PIPELINE)
        return {"passes": round(steps * network.batch / len(images.large), 2)}

    train_averaged_within(
        minutes,
        folder,
        lambda: make_unet(network).to(device).train(),
        loss_of,
        finish,
        settings={"data": images.data_hash, **asdict(network)},
        lr=network.lr,
        steps=steps,
        seed=seed,
    )


def make_unet(network: Network) -> UNet2DModel:
    """Without weights; convolutions alone, for attention says little in so small an image."""
    levels = len(network.widths)
    return UNet2DModel(
        sample_size=network.side,
        in_channels=network.channels,
        out_channels=network.channels,
        layers_per_block=1,
        block_out_channels=network.widths,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=network.norm_groups,
        add_attention=False,
    )


def make_scheduler() -> DDPMScheduler:
    """The chain of every model here; steps begin at its noisiest level however few they are."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
    )


def as_tensor(pictures: torch.Tensor) -> torch.Tensor:
    """Intensities [n, H, W, C], 0 to 255, as f32[n, C, H, W] from -1 to 1."""
    return pictures.movedim(3, 1).float() / 127.5 - 1


def as_pictures(samples: torch.Tensor) -> torch.Tensor:
    """The inverse, u8."""
    return ((samples.movedim(1, 3) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
