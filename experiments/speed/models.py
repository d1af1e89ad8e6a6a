"""The models that are compared: of equal weights, of equal depth, and with shared layers.

shallow   G layers, once            as many weights as the shared ones
deep      R * G layers, once        as deep as the shared ones
shared    G layers, R times
speed     G layers, R times, and a part of the loss is that of early loops
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from experiments.kit.trainings import LossOf
from experiments.speed.scales import Language
from outpace.targets.hf_looped_model import LoopedConfig, LoopedForCausalLM
from outpace.train.loop import Loss
from outpace.train.looped import Batches, Early, looped_loss

HEAD = 64  # width of a head
END_ID = 0
SHARED, SPEED = "shared", "speed"
BASE = "base"  # what becomes the former when it learns to agree with itself


@dataclass(frozen=True, slots=True)
class Kind:
    """Of a model: distinct layers, how often they run, what is asked of early loops."""

    layers: int
    loops: int
    early: Mapping[int, float]

    @property
    def loss(self) -> Early:
        """For the training."""
        return Early(self.early)

    @property
    def named(self) -> dict[str, float]:
        """What is asked of early loops, as JSON has it."""
        return {str(loop): weight for loop, weight in self.early.items()}


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a training.

    new    the model at its beginning. loops: how often the layers run in a step. early: what is asked of
           early loops, except in steps without any. settings: of this part, for run.json.
    """

    new: Callable[[], Any]
    loops: Callable[[int], int]
    early: Early
    steps: int
    lr: float
    settings: dict[str, Any]


def kinds(layers: int, loops: int, early: Mapping[int, float], *, alone: bool = False) -> dict[str, Kind]:
    """The models by name. alone: the one that is trained for SPEED is all there is."""
    speed = {SPEED: Kind(layers, loops, early)}
    others = {
        "shallow": Kind(layers, 1, {}),
        "deep": Kind(layers * loops, 1, {}),
        SHARED: Kind(layers, loops, {}),
    }
    return speed if alone else others | speed


def language_model(size: Language, kind: Kind, num_tokens: int, seed: int) -> Any:
    """A language model with random weights; embedding and output matrix are one."""
    heads = max(1, size.width // HEAD)
    config = LoopedConfig(
        vocab_size=num_tokens,
        hidden_size=size.width,
        intermediate_size=-(-size.width * 8 // 3 // HEAD) * HEAD,
        num_hidden_layers=kind.layers,
        num_loops=kind.loops,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=END_ID,
        pad_token_id=None,
    )
    torch.manual_seed(seed)
    return LoopedForCausalLM(config)


def loops_in(step: int, loops: int, once: int, seed: int) -> int:
    """How often the layers run in a step: R times, or once in the first steps and then 2 to R times."""
    if not once:
        return loops
    return 1 if step < once else drawn(step, loops, seed)


def drawn(step: int, loops: int, seed: int) -> int:
    """2 to R loops, by chance, as in Geiping et al. 2025, arXiv:2502.05171: every output is trained so."""
    return int(np.random.default_rng((seed, step)).integers(2, loops, endpoint=True))


def loss_with(
    model: Any, batches: Batches, loops: Callable[[int], int], early: Early, **options: Any
) -> LossOf:
    """The loss of a model that makes so many loops in a step; one loop alone has no early ones."""

    def loss(step: int, random: torch.Generator) -> Loss:
        model.config.num_loops = made = loops(step)
        return looped_loss(model, batches, early if made > 1 else Early(), **options)(step, random)

    return loss
