"""Whole texts with their states, padded to batches: what layers learn from that read texts from the start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outpace.core.errors import OutpaceError
from outpace.train.features import STATES, Features


@dataclass(frozen=True, slots=True)
class Padded:
    """B texts of at most N tokens, padded behind their ends.

    places  i64[B, N], where each token stands in the features; behind an end, where its text begins.
    inside  bool[B, N], whether there is a token. answers: whether it is one of an answer.
    states  f32[B, N, W].
    """

    places: NDArray[np.int64]
    inside: NDArray[np.bool_]
    answers: NDArray[np.bool_]
    states: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Texts:
    """What a layer learns from.

    features  of tokens from the second one of each text on: `kept_states` at the taps and at "final".
    firsts    i64[T], how many of a text's tokens there belong to its prompt.
    """

    features: Features
    firsts: NDArray[np.int64]

    def padded(self, numbers: Sequence[int]) -> Padded:
        """These texts. An OutpaceError for states that are no numbers."""
        features = self.features
        starts = np.r_[0, features.ends[:-1]][numbers]
        lengths = features.ends[numbers] - starts
        at = np.arange(lengths.max())
        inside = at < lengths[:, None]
        places = np.where(inside, starts[:, None] + at, starts[:, None])
        states = features.states[places.reshape(-1)].astype(np.float32).reshape(*places.shape, -1)
        if not np.isfinite(states).all():
            raise OutpaceError(f"{STATES} holds numbers that are none; remove its folder to begin anew")
        return Padded(places, inside, inside & (at >= self.firsts[numbers][:, None]), states)
