"""What others do where a hundred calls are too many: DDIM, fewer steps without noise.

Song, Meng & Ermon 2021, arXiv:2010.02502. With the noise that the clean sequence leaves of the state,

    state' = alpha' clean + sqrt(sigma'^2 - s^2) noise + s z
    s      = eta (sigma' / sigma) sqrt(1 - (alpha / alpha')^2)

Eta 0 is DDIM, whose law is another one; eta 1 is the plain chain as a bare loop, without anything of ours.
"""

from __future__ import annotations

import math
from time import perf_counter

import torch

from experiments.diffusion.policy_demos import HORIZON
from experiments.diffusion.policy_model import Policy, alphas_cumprod, timesteps
from outpace.diffusion import Samples, Stats


@torch.no_grad()
def bare_loop(
    policy: Policy, conditions: torch.Tensor, num_steps: int, *, eta: float = 0.0, seed: int = 0
) -> Samples:
    """Sequences [n, 16, 2] for conditions [n, F]: one call a step, all of them side by side."""
    began = perf_counter()
    random = torch.Generator().manual_seed(seed)
    shape = (len(conditions), HORIZON, 2)
    squares = alphas_cumprod().tolist()
    steps = timesteps(num_steps)
    states = torch.randn(shape, generator=random)
    for number, step in enumerate(steps):
        square = squares[step]
        following = squares[steps[number + 1]] if number + 1 < num_steps else 1.0
        clean = policy(states, torch.full((shape[0],), float(step)), conditions).clamp(-1, 1)
        noise = (states - math.sqrt(square) * clean) / math.sqrt(1 - square)
        fresh = eta**2 * (1 - following) / (1 - square) * (1 - square / following)
        states = math.sqrt(following) * clean + math.sqrt(1 - following - fresh) * noise
        if fresh > 0:
            states += math.sqrt(fresh) * torch.randn(shape, generator=random)
    stats = Stats.zero(num_steps, shape[0], 1)
    stats.sequential_calls += num_steps
    stats.evaluations += num_steps
    stats.num_calls = num_steps
    stats.wall_s = perf_counter() - began
    return Samples(states, stats)
