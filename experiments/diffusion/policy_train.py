"""Train the diffusion policy on demonstrations; what is kept is the moving average of its weights.

A run that was killed goes on where its last checkpoint is, with the same result.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

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
from experiments.kit.averages import train_averaged
from experiments.kit.trainings import train_within
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan

POLICY, DEMONSTRATIONS = "policy", "demonstrations"
LR, WEIGHT_DECAY = 1e-3, 1e-4
BATCH = 256
PROCESSES = 2  # that demonstrate


def train_policy(folder: Path, scale: PolicyScale, *, device: str = "cpu", seed: int = 0) -> None:
    """Demonstrations into folder/demonstrations, and the policy into folder/policy, unless they are there."""
    processes = min(PROCESSES, os.cpu_count() or 1)
    demonstrations = make_demonstrations(folder / DEMONSTRATIONS, scale.demonstrations, processes=processes)
    examples = Examples(demonstrations, device)

    def run(where: Path, steps: int, progress: Progress | None) -> None:
        plan = Plan(steps, LR, weight_decay=WEIGHT_DECAY, seed=seed)
        config = PolicyConfig(scale.width, scale.num_blocks)
        settings = {"data": demonstrations.data_hash, "batch": BATCH, "prediction": PREDICTION}
        checkpoint = Checkpoint(where, {**settings, **asdict(plan), **asdict(config)})
        if "finished" in checkpoint.run:
            return
        torch.manual_seed(seed)
        model = Policy(config)
        model.learn_scales(examples.told.cpu(), examples.sequences.cpu())
        model.to(device)
        averaged = train_averaged(
            model, lambda _, random: examples.loss(model, random), plan, checkpoint, progress=progress
        )
        averaged.cpu().save(where)
        facts = {
            "tried": demonstrations.tried,
            "kept": len(demonstrations.lengths),
            "mean_length": round(float(demonstrations.lengths.mean()), 1),
            "passes": round(plan.steps * BATCH / len(examples.told), 2),
        }
        checkpoint.note(finished=True, demonstrations=facts)
        checkpoint.done()

    train_within(scale.minutes, folder / POLICY, run, steps=scale.steps)


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
