"""Reflection-maximal coupling: a draft's Gaussian sample becomes the target's, unchanged as often as can be.

De Bortoli, Galashov, Gretton & Doucet 2025, arXiv:2501.05370, section 3; the coupling of two Gaussians with
equal covariance is that of Bou-Rabee, Eberle & Zimmer 2020, arXiv:1805.00452.

    sample = draft_mean + sigma z,   D = (draft_mean - target_mean) / sigma
    accept   if log u <= -<z, D> - |D|^2 / 2, the ratio of the two densities at the sample
    repair   otherwise, by the same noise mirrored along e = D / |D|:  target_mean + sigma (z - 2 e <e, z>)

The result has the target's law N(target_mean, sigma^2 I), and it is the draft's sample with probability
2 Phi(-|D|/2), the most that any coupling can have. No new noise is drawn.
"""

from __future__ import annotations

import torch


def couple(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(samples [B, *S], accepted bool[B]) of the target's steps N(target_mean, sigma^2 I).

    noise        [B, *S] standard normal; the draft's samples are draft_mean + sigma * noise.
    sigma        f64[B], >= 0. At 0 both steps are points: accepted if they are the same point.
    uniform      f64[B] in (0, 1), independent of all else.
    """
    wide = torch.promote_types(noise.dtype, torch.float32)
    column = sigma.to(wide).reshape(-1, *[1] * (noise.ndim - 1))
    gap = (draft_mean - target_mean).to(wide)
    direction = gap.flatten(1).double()
    length = direction.norm(dim=1)
    direction = direction / length.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    along = (direction * noise.flatten(1).double()).sum(1)  # of z, from the target's mean to the draft's
    distance = length / sigma  # delta; inf where two points differ, nan where they do not
    accepted = (length == 0) | (uniform.log() <= -distance * (along + distance / 2))
    reflected = noise - (2 * along[:, None] * direction).reshape(noise.shape).to(noise.dtype)
    keep = accepted.reshape(column.shape)
    samples = torch.where(keep, draft_mean, target_mean) + column.to(noise.dtype) * torch.where(
        keep, noise, reflected
    )
    return samples, accepted


def acceptance(distance: torch.Tensor) -> torch.Tensor:
    """2 Phi(-distance / 2): how often a draft is accepted whose mean lies `distance` sigmas off."""
    return torch.special.erfc(distance / 8**0.5)
