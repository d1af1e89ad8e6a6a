"""What trainings of Medusa heads and of Hydra heads share: their layers, their options, what names a run.

Both begin as the model itself (Cai et al. 2024, arXiv:2401.10774, section 2.1.1): residual layers at zero,
and output matrices that are the model's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear, silu

from outpace.core.errors import OutpaceError
from outpace.heads.hydra import HydraConfig
from outpace.heads.medusa import MAX_HEADS, MAX_LAYERS, MedusaConfig
from outpace.train.loop import Plan
from outpace.train.precision import PRECISIONS
from outpace.train.segments import SEGMENT

Outputs = Literal["shared", "own"]
MOST_TOKENS = 1 << 20  # of a batch


class ResidualBlock(torch.nn.Module):
    """The residual layers of one head, which begin as the identity.

    read  numbers that the first layer reads.
    """

    def __init__(self, read: int, width: int, num_layers: int, *, bias: bool = True) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(width if layer else read, width, bias=bias) for layer in range(num_layers)
        )
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)

    def forward(self, states: Tensor, read: Tensor) -> Tensor:
        """States [n, D], and what the first layer reads [n, R] -> [n, D]."""
        states = states + silu(self.layers[0](read))
        for layer in self.layers[1:]:
            states = states + silu(layer(states))
        return states


def own_outputs(count: int, output: Tensor) -> torch.nn.ModuleList:
    """So many output matrices, each a copy of the model's rows f32[M, D]."""
    matrices = torch.nn.ModuleList()
    for _ in range(count):
        own = torch.nn.Linear(output.shape[1], output.shape[0], bias=False)
        own.weight = torch.nn.Parameter(output.clone())
        matrices.append(own)
    return matrices


def logits_of(ahead: Sequence[Tensor], own: torch.nn.ModuleList, output: Tensor) -> Tensor:
    """What each head's output matrix reads, [n, D] -> [n, H, M]. output: [M, D], where none has its own."""
    if not len(own):
        return linear(torch.stack([*ahead], dim=1), output)
    return torch.stack([matrix(one) for matrix, one in zip(own, ahead, strict=True)], dim=1)


def settings_of(
    method: str,
    config: MedusaConfig | HydraConfig,
    ids: NDArray[np.integer],
    plan: Plan,
    **more: Any,
) -> dict[str, Any]:
    """What tells one run from another: run.json has it."""
    planned = {option: value for option, value in asdict(plan).items() if option != "checkpoint_s"}
    named = f"sha256:{hashlib.sha256(ids.tobytes()).hexdigest()}"
    return {**asdict(config), "method": method, **more, "token_ids": named, **planned}


def check_options(
    method: str, *, num_heads: int, num_layers: int, outputs: str, batch: int, precision: str
) -> None:
    """OutpaceError for options that nothing can be trained with, which hours of states need not show."""
    ranges = {"num_heads": MAX_HEADS, "num_layers": MAX_LAYERS}
    for option, value in {"num_heads": num_heads, "num_layers": num_layers}.items():
        if type(value) is not int or not 1 <= value <= ranges[option]:
            raise OutpaceError(
                f"{method} has {option}={value!r}, accepted are whole numbers from 1 to {ranges[option]}"
            )
    if type(batch) is not int or not 0 < batch <= MOST_TOKENS or batch % SEGMENT:
        raise OutpaceError(
            f"{method} has batch={batch!r}, accepted are multiples of {SEGMENT} up to {MOST_TOKENS}"
        )
    if outputs not in get_args(Outputs):
        raise OutpaceError(f"outputs is {outputs!r}, accepted are {', '.join(get_args(Outputs))}")
    if precision not in PRECISIONS:
        raise OutpaceError(f"precision is {precision!r}, accepted are {', '.join(PRECISIONS)}")
