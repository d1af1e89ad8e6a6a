"""Couplings that are wrong on purpose: the tests of laws have to see it."""

from __future__ import annotations

import torch

Coupled = tuple[torch.Tensor, torch.Tensor]


def accept_everything(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> Coupled:
    """Drafts as they are."""
    return draft_mean + _column(sigma, noise) * noise, torch.ones_like(uniform, dtype=torch.bool)


def keep_the_noise(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> Coupled:
    """Repairs with the noise that was rejected, not mirrored."""
    _, accepted, _ = _judged(noise, draft_mean, target_mean, sigma, uniform)
    return _chosen(accepted, draft_mean, noise, target_mean, noise, sigma)


def draw_again(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> Coupled:
    """Repairs with a sample of the target's own law, though only what the drafts lack should be made up."""
    _, accepted, _ = _judged(noise, draft_mean, target_mean, sigma, uniform)
    fresh = torch.randn(noise.shape, generator=torch.Generator().manual_seed(0), dtype=noise.dtype)
    return _chosen(accepted, draft_mean, noise, target_mean, fresh, sigma)


def keep_the_draft_mean(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> Coupled:
    """Repairs about the draft's mean."""
    _, accepted, mirrored = _judged(noise, draft_mean, target_mean, sigma, uniform)
    return _chosen(accepted, draft_mean, noise, draft_mean, mirrored, sigma)


def wrong_sign(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> Coupled:
    """The noise's sign turned in the ratio of densities: as many are accepted, but others."""
    _, accepted, _ = _judged(-noise, draft_mean, target_mean, sigma, uniform)
    *_, mirrored = _judged(noise, draft_mean, target_mean, sigma, uniform)
    return _chosen(accepted, draft_mean, noise, target_mean, mirrored, sigma)


def without_the_square(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> Coupled:
    """The ratio of densities without |D|^2 / 2: too many are accepted."""
    along, _, mirrored = _judged(noise, draft_mean, target_mean, sigma, uniform)
    return _chosen(uniform.log() <= -along, draft_mean, noise, target_mean, mirrored, sigma)


WRONG = [accept_everything, keep_the_noise, draw_again, keep_the_draft_mean, wrong_sign, without_the_square]


def _column(sigma: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return sigma.to(like.dtype).reshape(-1, *[1] * (like.ndim - 1))


def _judged(
    noise: torch.Tensor,
    draft_mean: torch.Tensor,
    target_mean: torch.Tensor,
    sigma: torch.Tensor,
    uniform: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """(<z, D>, accepted by the right rule, the noise mirrored), sigma 0 set aside."""
    gap = (draft_mean - target_mean) / _column(sigma, noise).clamp_min(1e-30)
    square = gap.flatten(1).square().sum(1)
    along = (gap * noise).flatten(1).sum(1)
    mirrored = noise - 2 * gap * _column(along / square.clamp_min(1e-30), noise)
    return along, uniform.log() <= -along - square / 2, mirrored


def _chosen(
    accepted: torch.Tensor,
    mean: torch.Tensor,
    noise: torch.Tensor,
    other_mean: torch.Tensor,
    other_noise: torch.Tensor,
    sigma: torch.Tensor,
) -> Coupled:
    keep = accepted.reshape(-1, *[1] * (noise.ndim - 1))
    samples = torch.where(keep, mean, other_mean) + _column(sigma, noise) * torch.where(
        keep, noise, other_noise
    )
    return samples, accepted
