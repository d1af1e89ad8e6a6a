"""What one call of the target costs when it scores M tokens: the curve that decides what drafting gains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.pricing.costs import SIZES, call_seconds

if TYPE_CHECKING:
    from outpace.core.contracts import Target

CALLS_PER_TURN = 4


@dataclass(frozen=True, slots=True)
class CallTime:
    """The median time of one call, scores and choices included, that scores `num_tokens` tokens."""

    num_tokens: int
    latency_ms: float


def call_times(
    target: Target,
    *,
    sizes: Sequence[int] = SIZES,
    context: int = 256,
    repeats: int = 15,
    sampling: Sampling | None = None,
    on_round: Callable[[], None] = lambda: None,
) -> list[CallTime]:
    """Time blocks of each size after `context` cached tokens: see `call_seconds`."""
    longest = max(sizes)
    if min(sizes) < 1 or context < 1 or repeats < 1:
        raise OutpaceError("sizes, context and repeats must all be at least 1")
    if context + longest > target.context_length:
        raise OutpaceError(
            f"{context} tokens of context and a block of {longest} do not fit into this model's "
            f"context of {target.context_length} tokens"
        )
    timed = [(size, sampling or Sampling()) for size in sizes]
    seconds = call_seconds(
        target, timed, context, rounds=repeats, calls=CALLS_PER_TURN - 1, on_round=on_round
    )
    return [CallTime(size, 1e3 * one) for size, one in zip(sizes, seconds, strict=True)]


def sampling_cost(target: Target, *, context: int = 256, repeats: int = 40) -> float:
    """The time of a call of one token at temperature 1 over that of a greedy one: medians, calls in turns."""
    timed = [(1, Sampling()), (1, Sampling(temperature=1.0))]
    greedy, sampled = call_seconds(target, timed, context, rounds=repeats, warm=0)
    return sampled / greedy
