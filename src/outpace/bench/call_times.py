"""What one call of the target costs when it scores M tokens: the curve that decides what drafting gains."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from outpace.core.call import Call, begin
from outpace.core.errors import OutpaceError
from outpace.core.sampling import Sampling
from outpace.core.tree import TokenTree

if TYPE_CHECKING:
    from outpace.core.contracts import Target

CALLS_PER_TURN = 4
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


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
    """Time blocks of each size after `context` cached tokens.

    The sizes take turns in every round, so that a machine that slows down slows all of them. A turn is a few
    calls, as decoding makes them; the first of them, which finds the caches full of another size's data, does
    not count. Nothing is kept between calls: each block is scored after the same context.
    """
    longest = max(sizes)
    if min(sizes) < 1 or context < 1 or repeats < 1:
        raise OutpaceError("sizes, context and repeats must all be at least 1")
    if context + longest > target.context_length:
        raise OutpaceError(
            f"{context} tokens of context and a block of {longest} do not fit into this model's "
            f"context of {target.context_length} tokens"
        )
    sampling = sampling or Sampling()
    text = [_token(position, target.vocab_size) for position in range(context + longest)]
    row = begin(target, text[:context])
    trees = {size: TokenTree.chain(text[context], text[context + 1 : context + size]) for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    try:
        for _ in range(repeats):
            for size in sizes:
                for call in range(CALLS_PER_TURN):
                    start = time.perf_counter()
                    scores = target.score([Call.on(row, trees[size])])
                    scores.choose([sampling], [context])
                    if call > 0:
                        seconds[size].append(time.perf_counter() - start)
            on_round()
    finally:
        target.free([row])
    return [CallTime(size, 1e3 * statistics.median(seconds[size])) for size in sizes]


def sampling_cost(target: Target, *, context: int = 256, repeats: int = 40) -> float:
    """The time of a call of one token at temperature 1 over that of a greedy one: medians, calls in turns."""
    text = [_token(position, target.vocab_size) for position in range(context + 1)]
    row = begin(target, text[:context])
    samplings = (Sampling(), Sampling(temperature=1.0))
    seconds: tuple[list[float], list[float]] = ([], [])
    try:
        for _ in range(repeats):
            for sampling, times in zip(samplings, seconds, strict=True):
                start = time.perf_counter()
                target.score([Call.on(row, TokenTree.root(text[context]))]).choose([sampling], [context])
                times.append(time.perf_counter() - start)
    finally:
        target.free([row])
    return statistics.median(seconds[1]) / statistics.median(seconds[0])


def _token(position: int, vocab_size: int) -> int:
    # Any spread of ordinary ids will do: the time of a call does not depend on which tokens it scores.
    return (position * 7919 + 1) % vocab_size
