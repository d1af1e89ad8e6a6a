"""Part (b): denoising models of digits and of patches of photographs, trained here; a cheap network drafts.

kind "model"     a model: its trainings
kind "floor"     Fréchet distance of training images, as many as samples, to held-out ones: the best there is
kind "pictures"  some samples of one seed, as a PNG, plainly ("draft" is null) and by drafts
and those of measure.py, where a setting's record has the distances of its samples: to held-out images, that
less plain sampling's, and to plain samples; each with its interval.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers.utils import logging
from numpy.typing import NDArray
from PIL import Image

from experiments.diffusion.denoisers import PIPELINE, as_pictures, as_tensor, train_denoiser
from experiments.diffusion.frechet import Features, Gaussian, frechet, with_intervals
from experiments.diffusion.measure import Measure, draw
from experiments.diffusion.scales import QUARTER, ImageScale, Network
from experiments.diffusion.settings import Chain, Setting, Sweep
from experiments.diffusion.two_sample import ALARM_RATE, energy_test, permutations_for
from experiments.kit.results import Record, Results
from experiments.kit.trainings import duration_of, short_fingerprint
from experiments.superres import pictures
from experiments.superres.pictures import Pictures
from outpace.diffusion import chain, ddpm_levels
from outpace.diffusion.folders import load_pipeline
from outpace.diffusion.pipelines import accelerate
from outpace.diffusion.process import Model, Process
from outpace.progress import Progress
from outpace.targets.pixel_model import PixelConfig

NUM_SHOWN, SHOWN_SEED = 8, 0


def train_images(
    data: Path, folder: Path, name: str, scale: ImageScale, *, device: str = "cpu", seed: int = 0
) -> None:
    """The model and its cheaper one into folder/images."""
    images = read_images(data, "train", scale.network)
    for part, network, minutes in _parts(name, scale):
        train_denoiser(folder / part, images, network, minutes, steps=scale.steps, device=device, seed=seed)


def measure_images(
    data: Path,
    folder: Path,
    name: str,
    results: Results,
    scale: ImageScale,
    num_tests: int,
    progress: Progress | None,
) -> None:
    """All settings of a model."""
    logging.disable_progress_bar()
    (part, *_), (draft_part, *_) = _parts(name, scale)
    subject = ImageSubject(name, folder / part, {QUARTER: folder / draft_part}, scale)
    fingerprint = short_fingerprint(subject.model)
    if not results.knows(name, fingerprint):
        trainings = {one: {**duration_of(folder / one), **asdict(of)} for one, of, _ in _parts(name, scale)}
        results.add({"kind": "model", "model": name, "fingerprint": fingerprint, "trainings": trainings})
    train, test = (clean_images(read_images(data, split, scale.network)) for split in ("train", "test"))
    judge = ImageJudge(train, test, permutations_for(num_tests, ALARM_RATE))
    if not results.of("floor", subject=name):
        # Evenly spread: neighbours are patches of one photograph.
        some = torch.linspace(0, len(train) - 1, scale.samples).long()
        results.add({"kind": "floor", "subject": name, "frechet": judge.distance(train[some])})
    show(subject, results, scale.sweep)
    Measure(subject, scale.sweep, judge, results, scale.samples, scale.timed, progress).all()


def read_images(data: Path, split: str, network: Network) -> Pictures:
    """Those of a split; larger ones are made as small as the network's."""
    config = PixelConfig(height=network.side, width=network.side, channels=network.channels)
    return pictures.read(data, split, config)


def clean_images(images: Pictures) -> torch.Tensor:
    """f32[n, C, H, W]."""
    return as_tensor(torch.from_numpy(images.large))


class ImageSubject:
    """A model from its folder."""

    def __init__(self, name: str, folder: Path, cheaper: dict[str, Path], scale: ImageScale) -> None:
        self.name = name
        pipeline = load_pipeline(folder / PIPELINE)
        self.model, self._scheduler = pipeline.unet.requires_grad_(False), pipeline.scheduler
        self._fast = accelerate(pipeline)
        self._cheaper = {other: accelerate(load_pipeline(path / PIPELINE)) for other, path in cheaper.items()}
        self.shape: Sequence[int] = (scale.network.channels, scale.network.side, scale.network.side)
        self.batch = scale.batch

    def target(self, which: Chain) -> tuple[Model, Process]:
        """The model as `accelerate` calls it. The chain is made here, for schedulers have no churn."""
        self._scheduler.set_timesteps(which.steps)
        levels = ddpm_levels(self._scheduler.alphas_cumprod.tolist(), self._scheduler.timesteps.tolist())
        of = self._scheduler.config
        clip = of.clip_sample_range if of.clip_sample else None
        process = chain(levels, prediction=of.prediction_type, churn=which.churn, clip=clip, prior_scale=1.0)
        return self._fast.chain(which.steps)[0], process

    def cheaper(self, name: str, which: Chain) -> Model:
        """The network of a quarter of the width."""
        return self._cheaper[name].chain(which.steps)[0]

    def conditions(self, num: int, seed: int) -> None:
        """There are none."""


class ImageJudge:
    """Fréchet distances, and an energy test, on features of `train`. Distances are to `test`."""

    def __init__(self, train: torch.Tensor, test: torch.Tensor, most: int) -> None:
        self._features = Features(train)
        self._test = self._features(test)
        self._most = most

    def of(self, samples: torch.Tensor, plain: torch.Tensor) -> Record:
        """Against plain samples; of these, as many are fitted as there are samples."""
        found, other = self._features(samples), self._features(plain)
        energy, p = energy_test(found, other, most=self._most)

        def values(mine: Gaussian, plains: Gaussian, real: Gaussian) -> list[float]:
            to_real = frechet(mine, real)
            return [to_real, to_real - frechet(plains, real), frechet(mine, plains)]

        to_real, less_plain, to_plain = with_intervals([found, other[-len(found) :], self._test], values)
        distances = {"frechet": to_real, "frechet_less_plain": less_plain, "frechet_to_plain": to_plain}
        return {"energy": energy, "p": p, **distances}

    def distance(self, images: torch.Tensor) -> list[float]:
        """To the held-out images: [value, low, high]."""
        (found,) = with_intervals([self._features(images), self._test], lambda *both: [frechet(*both)])
        return found


def show(subject: ImageSubject, results: Results, sweep: Sweep) -> None:
    """Records of kind "pictures": samples of one seed at the base, plainly and by every draft."""
    for draft in (None, *sweep.drafts):
        if results.of("pictures", subject=subject.name, draft=draft):
            continue
        setting = None if draft is None else Setting(sweep.base, draft, sweep.window)
        drawn = draw(subject, sweep.base, NUM_SHOWN, SHOWN_SEED, setting)
        png = encoded(as_pictures(drawn.samples).numpy())
        results.add({"kind": "pictures", "subject": subject.name, "draft": draft, "png": png})


def encoded(shown: NDArray[np.uint8]) -> str:
    """Pictures u8[n, H, W, C] above each other, as a PNG in text."""
    column = np.concatenate(list(shown))
    file = io.BytesIO()
    Image.fromarray(column[..., 0] if column.shape[2] == 1 else column).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def decoded(text: str) -> NDArray[np.uint8]:
    """The inverse; pictures are as high as wide."""
    column = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
    side = column.shape[1]
    return column.reshape(-1, side, side, column.shape[2] if column.ndim == 3 else 1)


def _parts(name: str, scale: ImageScale) -> list[tuple[str, Network, float]]:
    """Trainings: their names, networks, minutes. The cheaper model comes second."""
    return [
        (name, scale.network, scale.minutes),
        (f"{name}-{QUARTER}", scale.draft_network, scale.draft_minutes),
    ]
