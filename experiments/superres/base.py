"""Train the pixel model that heads are put on: luminance, 8 x 8 to 32 x 32.

    python -m experiments.superres.base --work FOLDER --scale full
    python -m experiments.superres.base --work FOLDER --scale full --speed

A run that was killed goes on where its last checkpoint is, with the same result. The learning rate warms up
and falls as a cosine over the steps that the minutes are enough for; these are measured once, at the start.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from experiments.kit.trainings import PACE_STEPS, announce, measured_once, precision_of
from experiments.superres import pictures
from experiments.superres.pictures import PATCHES, WORK, Pictures
from experiments.superres.scales import SCALES, Scale
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar
from outpace.targets.pixel_model import PixelModel
from outpace.train.allocator import keep_freed_memory
from outpace.train.bases_pixel import lines
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import PRECISIONS, Precision, faster_precision, products_in

BASE = "base"
LR = 2e-3
WEIGHT_DECAY = 0.01
CHECKPOINT_S = 120.0

LossOf = Callable[[int, torch.Generator], Loss]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--scale", default="session", choices=("full", "session"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="about how long to train, if not as the scale says")
    parser.add_argument("--channels", type=int, default=1, choices=(1, 3), help="3 for colour")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speed", action="store_true", help="measure 20 steps of each precision, and stop")
    args = parser.parse_args()
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    scale = SCALES[args.scale]
    scale = replace(
        scale,
        config=replace(scale.config, channels=args.channels),
        base_minutes=args.minutes or scale.base_minutes,
    )
    try:
        if args.speed:
            print_speed(args.work / PATCHES, scale, args.device)
            return
        folder = args.work / args.scale / BASE
        train_base(args.work / PATCHES, folder, scale, device=args.device, seed=args.seed)
    except (OutpaceError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def train_base(
    patches: Path, folder: Path, scale: Scale, *, device: str = "cpu", seed: int = 0
) -> PixelModel:
    """Train a model into a folder and note its bits on dev in run.json; done already: read it."""
    config, batch = scale.config, scale.batch
    data = pictures.read(patches, "train", config)
    pace = measured_once(folder, lambda: _pace(scale, data, device))
    steps, precision = int(pace["steps"]), precision_of(folder)
    plan = Plan(steps, LR, weight_decay=WEIGHT_DECAY, seed=seed, checkpoint_s=CHECKPOINT_S)
    settings = {"data": data.data_hash, "batch": batch, "jitter": scale.jitter, "precision": precision}
    checkpoint = Checkpoint(folder, {**settings, **asdict(plan), **asdict(config)})
    if "dev_bits" in checkpoint.run:
        return PixelModel.open(folder)
    torch.manual_seed(seed)
    model = PixelModel(config).to(device).train()
    announce(folder.name, steps, scale.base_minutes)
    with progress_bar() as progress:
        train([model], bits_of(model, data, scale, seed, precision), plan, checkpoint, progress=progress)
    model.eval().save(folder)
    dev = mean_bits(model, pictures.read(patches, "dev", config))
    checkpoint.note(dev_bits=round(dev, 4), passes=round(plan.steps * batch / len(data.large), 2))
    checkpoint.done()
    print(f"{folder.name}: {dev:.3f} bits an intensity on dev", flush=True)
    return model.cpu()


def bits_of(model: PixelModel, data: Pictures, scale: Scale, seed: int, precision: Precision) -> LossOf:
    """The loss of a step: bits per intensity."""

    def loss(step: int, random: torch.Generator) -> Loss:
        some = data.batch(scale.batch, seed, step, scale.jitter)
        with products_in(precision, model.output.weight.device):
            return Loss(bits(model, some), some["labels"].numel())

    return loss


def bits(model: PixelModel, batch: dict[str, Tensor]) -> Tensor:
    """The mean cross-entropy of a batch's intensities, in bits."""
    device = model.output.weight.device
    small, labels = batch["small"].to(device), batch["labels"].to(device)
    read = batch.get("read", batch["labels"]).to(device)
    logits = model(lines(read), small).float()
    return cross_entropy(logits.flatten(0, 1), labels.flatten()) / math.log(2)


def mean_bits(model: PixelModel, data: Pictures, size: int = 32) -> float:
    """Bits per intensity of all pictures."""
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(data.large), size):
            some = data.picked(slice(first, first + size))
            total += float(bits(model, some)) * len(some["labels"])
    return total / len(data.large)


def step_seconds(
    scale: Scale, data: Pictures, num_steps: int, *, device: str = "cpu", precision: Precision = "float32"
) -> float:
    """The median time of a training step, of a model that is thrown away."""
    model = PixelModel(scale.config).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    times = []
    for step in range(num_steps + 1):
        began = perf_counter()
        with products_in(precision, torch.device(device)):
            loss = bits(model, data.batch(scale.batch, 0, step, scale.jitter))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        float(loss.detach())  # wait for the device
        times.append(perf_counter() - began)
    return sorted(times[1:])[num_steps // 2]


def _pace(scale: Scale, data: Pictures, device: str) -> dict[str, Any]:
    """The precision, and the number of steps that fit into the minutes."""
    precision, steps = faster_precision(device), scale.steps
    if steps is None:
        seconds = step_seconds(scale, data, PACE_STEPS, device=device, precision=precision)
        steps = max(1, round(60 * scale.base_minutes / seconds))
    return {"precision": precision, "steps": steps}


def print_speed(patches: Path, scale: Scale, device: str) -> None:
    """Intensities per second of 20 steps in either precision."""
    data = pictures.read(patches, "train", scale.config)
    size = sum(parameter.numel() for parameter in PixelModel(scale.config).parameters())
    print(f"{size / 1e6:.2f} million parameters, {torch.get_num_threads()} threads")
    for precision in PRECISIONS:
        seconds = step_seconds(scale, data, 20, device=device, precision=precision)
        speed = scale.batch * scale.config.num_intensities / seconds
        print(f"{precision}: {seconds:.2f} s a step, {speed:.0f} intensities/s", flush=True)


if __name__ == "__main__":
    main()
