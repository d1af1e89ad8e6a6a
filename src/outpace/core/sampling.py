"""Sampling as argmax with noise: the target's choice is a pure function of (logits, sampling, position).

choice = argmax over the surviving tokens of logits / temperature + gumbel(seed, position, token). With
Gumbel noise the argmax has exactly the softmax law (Gumbel 1954; Maddison, Tarlow & Minka 2014,
arXiv:1411.0030), and because the noise is a hash of (seed, position, token) the choice after a prefix does
not depend on who asks for it, when, or in which block. Greedy is the same argmax with zero noise.

Filters, in this order: temperature; top_k; top_p on the renormalised rest; min_p relative to the most
likely token, which always remains. Tokens rank by probability, ties by the lower id. This file is the numpy
twin of the native sampler, and both compute with options in double precision, as they are checked here.
Logits of which one is no number, or none is above minus infinity, leave no choice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from outpace.core.errors import OutpaceError
from outpace.core.options import number, shown, whole

_U64 = (1 << 64) - 1
MOST_K = 2**31 - 1  # what the native decoder reads
NO_CHOICE = -(2**31)  # what `choose` gives where there is no choice
_LEAST, _MOST = 1e-30, 1e30  # temperatures beyond act like these


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target chooses a token. The default is greedy decoding.

    temperature  >= 0; 0 takes the most likely token and leaves the filters and the seed without effect.
    top_k        keep the k most likely tokens; 0 is off.
    top_p        keep a token while the tokens ranked ahead of it weigh less than top_p in all; 1.0 is off.
    min_p        keep a token of at least min_p times the largest probability; 0.0 is off.
    seed         the noise's seed, 0 to 2**64 - 1.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks: list[tuple[str, Callable[[float], bool], str]] = [
            ("temperature", lambda t: 0 <= t < math.inf, "finite numbers >= 0"),
            ("top_p", lambda p: 0 < p <= 1, "0 < top_p <= 1 (1 is off)"),
            ("min_p", lambda p: 0 <= p <= 1, "0 <= min_p <= 1 (0 is off)"),
        ]
        for name, fits, accepted in checks:
            object.__setattr__(self, name, number(name, getattr(self, name), fits, accepted))
        object.__setattr__(self, "top_k", whole("top_k", self.top_k, 0, MOST_K, hint=" (0 is off)"))
        object.__setattr__(self, "seed", whole("seed", self.seed, 0, _U64))


def given_sampling(options: Mapping[str, Any], *others: str) -> Sampling | None:
    """The `sampling` of a call; OutpaceError where single options, or `others`, are given with it."""
    sampling = options.get("sampling")
    if sampling is None:
        return None
    if not isinstance(sampling, Sampling):
        raise OutpaceError(f"sampling is {shown(sampling)}, accepted are a Sampling and None")
    single = [name for name in (*others, *Sampling.__slots__) if name in options]
    if single:
        raise OutpaceError(
            f"sampling and {', '.join(single)} are given, accepted are a Sampling or single options"
        )
    return sampling


def gumbel(seed: int, position: int, tokens: ArrayLike) -> NDArray[np.float64]:
    """f64[n]: the noise of these token ids at an absolute position of the sequence."""
    key = _splitmix64(_splitmix64(seed & _U64) ^ (position & _U64))
    hashed = _mix32(np.asarray(tokens).astype(np.uint32) ^ np.uint32(key & 0xFFFFFFFF))
    hashed = _mix32(hashed + np.uint32(key >> 32))
    uniform = (hashed.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    # Exponential noise from log1p keeps full precision where it is small: there lie the tokens that win.
    exponential = -np.log1p(-np.minimum(uniform, np.float32(1 - 2.0**-24)).astype(np.float64))
    return -np.log(exponential)


def fresh_seed(seed: int, purpose: str, *numbers: int) -> int:
    """A seed for other noise than that of the choices: a pure function, unrelated for unequal arguments."""
    state = _splitmix64(seed & _U64)
    for one in (*purpose.encode(), *numbers):
        state = _splitmix64(state ^ (one & _U64))
    return state


def coin(seed: int, position: int, purpose: str, index: int = 0) -> float:
    """Uniform in [0, 1): a rule's coin of this purpose at an absolute position; `index` counts them."""
    return (fresh_seed(seed, purpose, position, index) >> 11) * 2.0**-53


def survivors(logits: ArrayLike, sampling: Sampling) -> NDArray[np.int64]:
    """Ids of the tokens that the filters leave, ascending. logits: f32[V]; -inf never survives.

    Raises an OutpaceError where there is no choice.
    """
    if not _has_choice(logits):
        raise no_choice()
    if sampling.temperature == 0:
        return np.argmax(np.asarray(logits), keepdims=True)
    scaled = _scaled(logits, sampling.temperature)
    if sampling.top_k == 0 and sampling.top_p == 1 and sampling.min_p == 0:
        return np.flatnonzero(scaled > -np.inf)
    # By the logits themselves: beside an enormous one the differences of others are lost in the scaled ones.
    ranked = np.argsort(-np.asarray(logits, np.float64), kind="stable")
    ranked = ranked[scaled[ranked] > -np.inf]
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    weight = np.exp(scaled[ranked])
    if sampling.top_p < 1:
        ahead = np.cumsum(weight) - weight
        ranked = ranked[ahead < sampling.top_p * weight.sum()]
    return np.sort(ranked[weight[: len(ranked)] >= sampling.min_p])


def warp(logits: ArrayLike, sampling: Sampling) -> NDArray[np.float64]:
    """f64[V]: the law of `choose` over all seeds, from logits f32[V]. One-hot at temperature 0."""
    kept = survivors(logits, sampling)
    law = np.zeros(np.shape(logits))
    law[kept] = np.exp(_scaled(logits, sampling.temperature)[kept]) if len(kept) > 1 else 1.0
    return law / law.sum()


def choose(logits: ArrayLike, sampling: Sampling, positions: Sequence[int]) -> list[int]:
    """The choice from each row of logits f32[N, V], for the tokens at these absolute positions.

    NO_CHOICE where a row has none: it may belong to a draft that is never kept.
    """
    choices = []
    for row, position in zip(np.asarray(logits), positions, strict=True):
        if not _has_choice(row):
            choices.append(NO_CHOICE)
            continue
        kept = survivors(row, sampling)
        if len(kept) > 1:
            noisy = _scaled(row, sampling.temperature)[kept] + gumbel(sampling.seed, position, kept)
            kept = kept[np.argmax(noisy, keepdims=True)]
        choices.append(int(kept[0]))
    return choices


def no_choice() -> OutpaceError:
    """The error of whoever needs a token that there is none to choose for."""
    return OutpaceError(
        "the model's scores leave no token to choose: one is not a number, or none is finite; "
        "its weights may be damaged, or every token is forbidden"
    )


def _scaled(logits: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """Logits over temperature, shifted so that the largest is 0: no temperature overflows."""
    logits = np.asarray(logits, dtype=np.float64)
    peak = logits.max()
    if peak == np.inf:  # which minus itself is no number
        return np.where(logits == peak, 0.0, -np.inf)
    with np.errstate(over="ignore"):
        return (logits - peak) / min(max(temperature, _LEAST), _MOST)


def _has_choice(logits: ArrayLike) -> bool:
    return bool(np.max(logits) > -np.inf)  # a maximum with what is no number is none


def _splitmix64(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _U64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _U64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _U64
    return z ^ (z >> 31)


def _mix32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
