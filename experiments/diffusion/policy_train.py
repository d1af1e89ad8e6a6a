"""Train the diffusion policy on demonstrations; what is kept is the moving average of its weights.

A run that was killed goes on where its last checkpoint is, with the same result.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.diffusion.policy_demos import Demonstrations, make_demonstrations
from experiments.diffusion.policy_model import (
    PREDICTION,
    TRAINING_STEPS,
    Policy,
    PolicyConfig,
    alphas_cumprod,
    to_sequence,
    told,
)
from experiments.diffusion.scales import PolicyScale
from experiments.kit.averages import train_averaged_within
from outpace.train.loop import Loss

POLICY, DEMONSTRATIONS = "policy", "demonstrations"
LR, WEIGHT_DECAY = 1e-3, 1e-4
BATCH = 256
PROCESSES = 2  # that demonstrate


def train_policy(folder: Path, scale: PolicyScale, *, device: str = "cpu", seed: int = 0) -> None:
    """Demonstrations into folder/demonstrations, and the policy into folder/policy, unless they are there."""
    processes = min(PROCESSES, os.cpu_count() or 1)
    demonstrations = make_demonstrations(folder / DEMONSTRATIONS, scale.demonstrations, processes=processes)
    examples = Examples(demonstrations, device)

    config = PolicyConfig(scale.width, scale.num_blocks)

    def new() -> Policy:
        model = Policy(config)
        model.learn_scales(examples.told.cpu(), examples.sequences.cpu())
        return model.to(device)

    def finish(model: Policy, where: Path, steps: int) -> dict[str, Any]:
        model.save(where)
        facts = {
            "tried": demonstrations.tried,
            "kept": len(demonstrations.lengths),
            "mean_length": round(float(demonstrations.lengths.mean()), 1),
            "passes": round(steps * BATCH / len(examples.told), 2),
        }
        return {"demonstrations": facts}

    settings = {"data": demonstrations.data_hash, "batch": BATCH, "prediction": PREDICTION}
    train_averaged_within(
        scale.minutes,
        folder / POLICY,
        new,
        lambda model: lambda _, random: examples.loss(model, random),
        finish,
        settings={**settings, **asdict(config)},
        lr=LR,
        weight_decay=WEIGHT_DECAY,
        steps=scale.steps,
        seed=seed,
    )


class Examples:
    """What the network is told, f[n, F], and the sequences that it is to predict, f[n, 16, 2], in pixels."""

    def __init__(self, demonstrations: Demonstrations, device: str) -> None:
        pairs, actions = demonstrations.windows()
        self.told = torch.from_numpy(told(pairs)).to(device)
        self.sequences = torch.from_numpy(to_sequence(pairs, actions)).to(device)
        self._alphas = torch.from_numpy(alphas_cumprod()).float().to(device)

    def loss(self, model: Policy, random: torch.Generator) -> Loss:
        """Of a batch at random levels of noise: the mean squared error of the predicted sequences."""
        chosen = torch.randint(len(self.told), (BATCH,), generator=random)
        times = torch.randint(TRAINING_STEPS, (BATCH,), generator=random)
        clean = self.sequences[chosen] / model.action_scale
        noise = torch.randn(clean.shape, generator=random).to(clean)
        alpha = self._alphas[times][:, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        said = model(noisy, times.to(noisy), self.told[chosen])
        return Loss(torch.nn.functional.mse_loss(said, clean), BATCH)
