"""How large the experiment is: samples and settings to measure, models, minutes of training for each.

Minutes are on two cores with nothing beside (`--threads 2`): how many steps fit into them is measured when a
training begins, so that a slower machine trains less, not longer. Measuring takes about as long as is said:

                              full      hours
    mixtures, measured          40          5
    digits, training            20         10
    digits, draft network        8          3
    patches, training          110         25
    patches, draft network      30          6
    images, measured           130         25
    policy, demonstrations      5          2
    policy, training           60         12
    policy, measured           15         10
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from experiments.diffusion.settings import ADAPTIVE, DRAFTS, INDEPENDENT, PRICED, Chain, Sweep

WORK = Path(__file__).parent / "work"


@dataclass(frozen=True, slots=True)
class MixtureScale:
    """Mixtures of Gaussians in so many dimensions.

    samples  of every setting, in one batch. timed: how many are timed one by one, beside plain sampling.
    """

    dims: tuple[int, ...]
    samples: int
    timed: int
    sweep: Sweep


@dataclass(frozen=True, slots=True)
class Network:
    """A diffusers UNet2DModel of these channels at falling resolutions; what trains it.

    side, channels  of an image. batch: images of a training step.
    """

    side: int
    channels: int
    widths: tuple[int, ...]
    batch: int
    lr: float
    norm_groups: int = 8


@dataclass(frozen=True, slots=True)
class ImageScale:
    """A model of small images, and its cheaper one.

    minutes, draft_minutes  of training. steps: of both trainings, in place of minutes.
    samples                 of every setting; `batch` of them side by side. timed: as in mixtures.
    """

    network: Network
    draft_network: Network
    minutes: float
    draft_minutes: float
    samples: int
    batch: int
    timed: int
    sweep: Sweep
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class PolicyScale:
    """A diffusion policy.

    minutes               of training. steps: of it, in place of minutes.
    width, num_blocks     of the network.
    demonstrations        tried; those that succeed are learned from.
    observations          held out, for which `repeats` sequences each are sampled with every setting.
    timed                 as in mixtures.
    episodes              played with plain sampling, and with every setting.
    ddim                  numbers of steps of the peer that has another law.
    """

    minutes: float
    width: int
    num_blocks: int
    demonstrations: int
    observations: int
    repeats: int
    timed: int
    episodes: int
    sweep: Sweep
    ddim: tuple[int, ...]
    steps: int | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """What a run consists of: a field for each part."""

    mixtures: MixtureScale
    images: dict[str, ImageScale]
    policy: PolicyScale


PERTURBED, MERGED = "perturbed", "merged"
QUARTER = "quarter"  # of the width

_MIXTURE_DRAFTS = (*DRAFTS, INDEPENDENT + PERTURBED, INDEPENDENT + MERGED)
_MIXTURES = Sweep(
    Chain("variance preserving", 50),
    drafts=_MIXTURE_DRAFTS,
    leading=("frozen", "stale", "carried"),
    windows=("2", "4", "16", ADAPTIVE),
    steps=(30, 100),
    churns=(0.5, 1.5),
    processes=("variance exploding", "linear interpolant"),
)
_ALL_MIXTURES = replace(_MIXTURES, leading=_MIXTURE_DRAFTS)

_IMAGES = Sweep(
    Chain("ddpm", 50),
    drafts=(
        "frozen", "frozen:held=output", "frozen:held=increment", "stale", "stale:held=output", "carried",
        "picard", "picard:sweeps=2", INDEPENDENT + QUARTER,
    ),
    leading=("frozen", "stale"),
    windows=("2", "4", "16", ADAPTIVE, PRICED),
    steps=(100,),
    churns=(0.5, 1.5),
)  # fmt: skip
_ALL_IMAGES = replace(
    _IMAGES, leading=("frozen", "stale", "carried", INDEPENDENT + QUARTER), steps=(100, 250)
)
_DIGITS, _DIGITS_DRAFT = Network(8, 1, (32, 64), 64, 2e-3), Network(8, 1, (8, 16), 64, 4e-3)
_PATCHES, _PATCHES_DRAFT = Network(32, 3, (32, 64, 64), 32, 1e-3), Network(32, 3, (8, 16, 16), 32, 3e-3)

_TINY = Network(8, 1, (8, 8), 16, 4e-3, norm_groups=4), Network(8, 1, (4, 4), 16, 4e-3, norm_groups=2)
_TINY_COLOUR = Network(8, 3, (8, 8), 16, 4e-3, norm_groups=4), Network(8, 3, (4, 4), 16, 4e-3, norm_groups=2)
_FEW = replace(
    _IMAGES, base=Chain("ddpm", 8), drafts=("frozen", "stale", INDEPENDENT + QUARTER), leading=("stale",),
    window="4", windows=(PRICED,), steps=(5,), churns=(1.5,),
)  # fmt: skip

_POLICY = replace(
    _IMAGES, base=Chain("ddpm", 100), steps=(50,),
    drafts=("frozen", "frozen:held=output", "frozen:held=increment", "stale", "carried", "picard"),
)  # fmt: skip

DIGITS, PATCHES = "digits", "patches"
SCALES = {
    "full": Scale(
        MixtureScale((2, 8, 32, 128, 512), 2048, 20, _ALL_MIXTURES),
        {
            DIGITS: ImageScale(_DIGITS, _DIGITS_DRAFT, 20, 8, 1024, 128, 40, _ALL_IMAGES),
            PATCHES: ImageScale(_PATCHES, _PATCHES_DRAFT, 110, 30, 256, 16, 20, _ALL_IMAGES),
        },
        PolicyScale(
            minutes=60, width=256, num_blocks=4, demonstrations=6000, observations=64, repeats=16, timed=40,
            episodes=100, sweep=_POLICY, ddim=(5, 10, 20),
        ),
    ),
    "hours": Scale(
        MixtureScale((2, 8, 32, 128, 512), 512, 8, _MIXTURES),
        {
            DIGITS: ImageScale(_DIGITS, _DIGITS_DRAFT, 10, 3, 512, 128, 20, _IMAGES),
            PATCHES: ImageScale(_PATCHES, _PATCHES_DRAFT, 25, 6, 128, 16, 5, _IMAGES),
        },
        PolicyScale(
            minutes=12, width=256, num_blocks=4, demonstrations=2000, observations=32, repeats=16, timed=20,
            episodes=100, sweep=_POLICY, ddim=(5, 10, 20),
        ),
    ),
    "smoke": Scale(
        MixtureScale(
            (2, 8), 64, 1,
            replace(_MIXTURES, base=Chain("variance preserving", 6), leading=("stale",), window="4",
                    windows=(ADAPTIVE,), steps=(4,), churns=(1.5,)),
        ),
        {
            DIGITS: ImageScale(*_TINY, 0, 0, 48, 24, 1, _FEW, steps=40),
            PATCHES: ImageScale(*_TINY_COLOUR, 0, 0, 48, 24, 1, _FEW, steps=40),
        },
        PolicyScale(
            minutes=0, width=16, num_blocks=1, demonstrations=4, observations=4, repeats=8, timed=1,
            episodes=2, sweep=replace(_FEW, drafts=("frozen", "stale")), ddim=(2,), steps=40,
        ),
    ),
}  # fmt: skip
