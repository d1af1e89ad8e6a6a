"""What the command line samples: the folder of a pipeline, or a model by name that needs no file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from outpace.core.errors import OutpaceError
from outpace.core.options import accept, whole
from outpace.core.registry import Registry
from outpace.diffusion.checks import checked_device
from outpace.diffusion.folders import load_pipeline
from outpace.diffusion.mixture import GaussianMixture
from outpace.diffusion.pipelines import accelerate
from outpace.diffusion.process import Model, Process
from outpace.diffusion.schedules import chain, variance_preserving

SOURCES = Registry("model", {"mixture": "outpace.diffusion.sources:mixture"}, "outpace.diffusion.models")


@dataclass(frozen=True, slots=True)
class Source:
    """A model, the process that it is sampled by, and the shape of one sample, on a device."""

    model: Model
    process: Process
    shape: tuple[int, ...]
    device: torch.device


def open_source(spec: str, num_steps: int, *, device: str = "cpu", threads: int | None = None) -> Source:
    """The model of a folder or name, with a process of so many steps.

    threads  that torch computes with in this process; as many as before if None.
    """
    spec = accept("model", spec, str)
    if threads is not None:
        torch.set_num_threads(whole("threads", threads, 1, 1024))
    place = checked_device(device)
    if Path(spec).is_dir():
        fast = accelerate(load_pipeline(spec, device=place))
        fast.check_conditions(None)
        model, process = fast.chain(num_steps)
        return Source(model, process, fast.shape, fast.device)
    if spec.partition(":")[0].strip() not in SOURCES.names():
        names = ", ".join(SOURCES.names())
        raise OutpaceError(f"{spec!r} is no folder of a diffusers pipeline and no name, accepted are {names}")
    made: Source = SOURCES.create(spec, num_steps=num_steps, device=place)
    return made


def mixture(
    num_steps: int,
    device: torch.device,
    *,
    dimensions: int = 32,
    components: int = 5,
    width: float = 0.3,
    seed: int = 0,
) -> Source:
    """A mixture of Gaussians with random means, by a variance-preserving chain."""
    levels = variance_preserving(num_steps)
    law = GaussianMixture.random(dimensions, components, width=width, seed=seed)
    return Source(law.denoiser(levels), chain(levels), (dimensions,), device)
