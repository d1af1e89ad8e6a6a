"""The model's own log-probabilities of a text's tokens, without temperature, filters and edits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from outpace.core.steps import Step

MOST = 20  # alternatives


class TokenLogprob(NamedTuple):
    """One token of a text.

    logprob  natural logarithm of its probability: a softmax of the raw logits, without edits and temperature.
    top      the likeliest tokens there with theirs, best first, lower id on ties.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


def logprobs_of(step: Step, count: int, top: int) -> list[TokenLogprob]:
    """Those of a step's first `count` tokens, with `top` alternatives each. `step.scores` must be valid."""
    nodes = [0, *step.verdict.path][:count]
    logits = step.scores.logits(nodes).astype(np.float64)  # [count, V]
    peaks = logits.max(axis=1, keepdims=True)
    logprobs = logits - peaks - np.log(np.exp(logits - peaks).sum(axis=1, keepdims=True))
    found = []
    for one, token in zip(logprobs, step.tokens[:count], strict=True):
        best = np.argsort(-one, kind="stable")[:top]
        found.append(TokenLogprob(token, float(one[token]), [(int(t), float(one[t])) for t in best]))
    return found
