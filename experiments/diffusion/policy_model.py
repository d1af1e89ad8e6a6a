"""A diffusion policy: Chi et al. 2023, arXiv:2303.04137.

The network is told the last two observations and a noisy sequence of actions, and predicts the noise or, as
here, the sequence itself. Sampling that chain gives 16 actions, of which 8 are carried out before the next
decision. Here the network is a residual perceptron over the whole sequence, small enough to learn the task in
minutes. Observations and actions are seen from the block: in its frame, actions as distances from the agent.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from experiments.diffusion.policy_demos import HORIZON
from experiments.diffusion.policy_task import ARM, CENTRE, GOAL, SIDE, local, rotation, turned
from outpace.core.errors import FormatError
from outpace.diffusion import Denoising, chain, ddpm_levels
from outpace.files.json_files import json_file

TRAINING_STEPS = 100
PREDICTION = "sample"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FINE = 12.0  # pixels from the goal that are seen enlarged
WAVE = 80.0  # pixels of the agent's place, as a phase


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Sizes of the network."""

    width: int = 256
    num_blocks: int = 4


class Policy(nn.Module):
    """model(noisy f[B, 16, 2], times f[B], told f[B, F]) -> [B, 16, 2], for `outpace.diffusion.sample`.

    told_mean, told_scale  of what the demonstrations say. action_scale: [16, 2], their largest distances.
    """

    told_mean: Tensor
    told_scale: Tensor
    action_scale: Tensor
    rates: Tensor

    def __init__(self, config: PolicyConfig = PolicyConfig()) -> None:
        super().__init__()
        self.config = config
        width = config.width
        num_told = len(told(np.zeros((1, 2, 5)))[0])
        self.register_buffer("told_mean", torch.zeros(num_told))
        self.register_buffer("told_scale", torch.ones(num_told))
        self.register_buffer("action_scale", torch.ones(HORIZON, 2))
        self.situation = nn.Sequential(
            nn.Linear(num_told + width // 4, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.begin = nn.Linear(2 * HORIZON, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(config.num_blocks))
        self.end = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * HORIZON))
        rates = torch.exp(torch.linspace(0, -math.log(1000), width // 8))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, noisy: Tensor, times: Tensor, conditions: Tensor) -> Tensor:
        """See above."""
        phases = times[:, None].to(self.rates.dtype) * self.rates
        known = (conditions - self.told_mean) / self.told_scale
        situation = self.situation(torch.cat([known, phases.sin(), phases.cos()], 1))
        state = self.begin(noisy.flatten(1))
        for block in self.blocks:
            state = block(state, situation)
        return self.end(state).unflatten(1, (HORIZON, 2))

    def learn_scales(self, conditions: Tensor, actions: Tensor) -> None:
        """Of all demonstrations: f[n, F], f[n, 16, 2]."""
        self.told_mean.copy_(conditions.mean(0))
        self.told_scale.copy_(conditions.std(0).clamp_min(1e-3))
        self.action_scale.copy_(actions.abs().amax(0).clamp_min(1.0))

    def save(self, folder: Path) -> None:
        """Write config and weights into a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(asdict(self.config)) + "\n")

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The policy in a folder, for use; FormatError where it is missing or another kind."""
        from safetensors.torch import load_file

        try:
            model = cls(PolicyConfig(**json_file(folder / CONFIG)))
            model.load_state_dict(load_file(folder / WEIGHTS))
        except Exception as error:
            raise FormatError(f"{folder} does not hold a whole policy: {error}") from error
        return model.eval().requires_grad_(False)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.told = nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, state: Tensor, situation: Tensor) -> Tensor:
        inner = self.inner(self.norm(state)) + self.told(situation)
        return state + self.outer(nn.functional.silu(inner))


def alphas_cumprod() -> NDArray[np.float64]:
    """f64[100]: the squared cosine of Nichol & Dhariwal 2021, arXiv:2102.09672; betas of 0.999 at most."""
    angles = (np.arange(TRAINING_STEPS + 1) / TRAINING_STEPS + 0.008) / 1.008 * math.pi / 2
    shares = np.cos(angles) ** 2
    return np.cumprod(1 - np.minimum(1 - shares[1:] / shares[:-1], 0.999))


def timesteps(num_steps: int) -> list[int]:
    """Of a chain of so many steps: evenly from the last one down to 0."""
    return np.linspace(TRAINING_STEPS - 1, 0, num_steps).round().astype(int).tolist()


def policy_chain(num_steps: int, *, churn: float = 1.0) -> Denoising:
    """The chain that is sampled."""
    levels = ddpm_levels(alphas_cumprod().tolist(), timesteps(num_steps))
    return chain(levels, prediction=PREDICTION, churn=churn, clip=1.0)


def told(pairs: NDArray[np.floating]) -> NDArray[np.float32]:
    """f32[n, F]: what the network is told of the last and the present observations f[n, 2, 5]."""
    last, now = pairs[:, 0], pairs[:, 1]
    agent, before = local(now[:, :2], now), local(last[:, :2], now)
    goal_centre = GOAL[:2] + rotation(GOAL[2]) @ CENTRE
    goal = local(np.broadcast_to(goal_centre, agent.shape), now) - CENTRE
    turn = turned(GOAL[2] - now[:, 4])[:, None]
    block_moved, block_turned = local(last[:, 2:4], now), turned(last[:, 4] - now[:, 4])[:, None]
    angle, phase = now[:, 4:], agent * (2 * math.pi / WAVE)
    parts = [
        agent, np.cos(phase), np.sin(phase), goal, np.cos(turn), np.sin(turn), np.tanh(goal / FINE),
        np.tanh(turn * ARM / FINE), now[:, 2:4] / SIDE, np.cos(angle), np.sin(angle), before - agent,
        block_moved, block_turned,
    ]  # fmt: skip
    return np.concatenate(parts, 1).astype(np.float32)


def to_sequence(pairs: NDArray[np.floating], actions: NDArray[np.floating]) -> NDArray[np.float32]:
    """f32[n, 16, 2]: actions f[n, 16, 2] in pixels from the agent, in the frame of the block."""
    now = pairs[:, 1]
    return ((actions - now[:, None, :2]) @ rotation(now[:, 4])).astype(np.float32)


def to_actions(pairs: NDArray[np.floating], sequence: NDArray[np.floating]) -> NDArray[np.float64]:
    """f64[n, 16, 2]: the inverse of `to_sequence`, cut to where actions may be."""
    now = pairs[:, 1]
    return np.clip(now[:, None, :2] + sequence @ rotation(now[:, 4]).swapaxes(1, 2), 0, SIDE)
