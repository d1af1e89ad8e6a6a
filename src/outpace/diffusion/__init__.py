"""Speculative sampling of diffusion models: samples of the same law after fewer calls one after another.

De Bortoli, Galashov, Gretton & Doucet 2025, arXiv:2501.05370. Needs torch (the extra `torch`).

    from outpace import diffusion
    process = diffusion.chain(diffusion.variance_preserving(50), prediction="epsilon")
    result = diffusion.sample(model, process, (3, 32, 32), 16, draft=diffusion.Stale(), window=8, seed=0)
    result.samples, result.stats.speedup_calls

`accelerate` takes models and pipelines of diffusers (the extra `diffusion`) as they are. Masked diffusion of
discrete sequences has a loop of its own, `sample_masked`.
"""

from outpace.diffusion.drafts import (
    Carried,
    Frozen,
    Increment,
    Independent,
    Output,
    Picard,
    Prediction,
    Stale,
)
from outpace.diffusion.masked import sample_masked
from outpace.diffusion.masked_rules import Match, Speculative
from outpace.diffusion.mixture import GaussianMixture
from outpace.diffusion.pipelines import Accelerated, Images, accelerate
from outpace.diffusion.process import Denoising, Drift
from outpace.diffusion.sampler import Samples, sample
from outpace.diffusion.schedulers import from_scheduler
from outpace.diffusion.schedules import (
    Levels,
    chain,
    ddpm_levels,
    linear_interpolant,
    variance_exploding,
    variance_preserving,
)
from outpace.diffusion.stats import Stats
from outpace.diffusion.unmasking import OneByOne, Unmasking, cosine_unmasking, linear_unmasking
from outpace.diffusion.windows import Adaptive, Fixed

__all__ = [
    "Accelerated",
    "Adaptive",
    "Carried",
    "Denoising",
    "Drift",
    "Fixed",
    "Frozen",
    "GaussianMixture",
    "Images",
    "Increment",
    "Independent",
    "Levels",
    "Match",
    "OneByOne",
    "Output",
    "Picard",
    "Prediction",
    "Samples",
    "Speculative",
    "Stale",
    "Stats",
    "Unmasking",
    "accelerate",
    "chain",
    "cosine_unmasking",
    "ddpm_levels",
    "from_scheduler",
    "linear_interpolant",
    "linear_unmasking",
    "sample",
    "sample_masked",
    "variance_exploding",
    "variance_preserving",
]
