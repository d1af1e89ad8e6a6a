"""The precision of a training's matrix products: weights, losses and optimizer stay in float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from outpace.pricing import clock

Precision = Literal["float32", "bfloat16"]
PRECISIONS: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def products_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Matrix products inside are made in this precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, PRECISIONS[precision])


def faster_precision(device: torch.device | str) -> Precision:
    """Of matrix products on this machine; bfloat16 has to be clearly faster to be worth its casts."""
    seconds: dict[Precision, float] = {}
    for name, dtype in PRECISIONS.items():
        matrix = torch.ones(512, 512, device=device, dtype=dtype)
        times = []
        for _ in range(5):
            began = clock.now()
            float((matrix @ matrix)[0, 0])  # wait for the device
            times.append(clock.now() - began)
        seconds[name] = min(times)
    return "bfloat16" if 1.5 * seconds["bfloat16"] < seconds["float32"] else "float32"
