"""What a way of decoding is, and what it made: the same for texts by the native engine and translations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from outpace.engine.request import Generation
from outpace.train.looped import loop_states, output_of

Way = str
"""A draft's spec."""
PLAIN = "none"


@dataclass(frozen=True, slots=True)
class Written:
    """Tokens; for each after the first, passes over the layers (R for a whole call) and seconds."""

    tokens: list[int]
    passes: float
    token_s: float

    @staticmethod
    def of(one: Generation, loops: int) -> Written:
        """What the engine has counted and timed."""
        stats = one.stats
        count = max(1, stats.completion_tokens - stats.first_tokens)
        passes = stats.num_passes or stats.target_calls * loops
        return Written(one.token_ids, passes / count, (stats.wall_s - stats.time_to_first_token_s) / count)


def ways_of(loops: int, *, every: bool, others: tuple[Way, ...] = ()) -> list[Way]:
    """Plain decoding, and for looped models SPEED as planned. every: fixed loops too."""
    if loops < 2:
        return [PLAIN]
    early = range(1, loops) if every else ()
    one = [f"speed:early={first}" for first in early]
    two = [f"speed:early=1,second={second}" for second in early if second > 1]
    return [PLAIN, "speed", *one, *two, *others]


@torch.no_grad()
def agreement(model: Any, given: Mapping[str, Tensor], labels: Tensor) -> NDArray[np.bool_]:
    """bool[R - 1, T]: whether the output after each early loop names what the last one names.

    labels  i64[1, T]: what the model is to say; -100 where a token is given.
    """
    states = loop_states(model, given, labels)
    named = [output_of(model, state[labels >= 0]).argmax(-1) for state in states]
    return np.array([(one == named[-1]).numpy() for one in named[:-1]], bool)
