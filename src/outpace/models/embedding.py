"""A text as one vector: the model's hidden states behind its last norm, their mean or the last of them.

Unit length. A model that was not trained for it gives vectors that tell texts apart, not good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call
from outpace.core.contracts import Tapped, Target
from outpace.core.errors import OutpaceError, PromptTooLong
from outpace.core.options import shown
from outpace.core.tree import TokenTree
from outpace.core.turns import turns_of

Pooling = Literal["mean", "last"]
POOLINGS: tuple[Pooling, ...] = ("mean", "last")


def embedding(target: Target, tokens: Sequence[int], *, pooling: Pooling = "mean") -> NDArray[np.float32]:
    """f32[D], of length 1. Raises an OutpaceError for a target without hidden states, and for no tokens.

    Other users of the target have their turns between the calls for a long text.
    """
    if pooling not in POOLINGS:
        raise OutpaceError(f"pooling is {shown(pooling)}, accepted are {', '.join(POOLINGS)}")
    if not isinstance(target, Tapped):
        raise OutpaceError("the model has no hidden states to embed texts with")
    if not tokens:
        raise OutpaceError("the text has no tokens, accepted are texts of 1 token or more")
    if len(tokens) > target.context_length:
        raise PromptTooLong(f"the text has {len(tokens)} tokens, the context holds {target.context_length}")
    size = min(target.traits.chunk, target.traits.max_nodes)
    total = np.zeros(target.hidden_size, np.float64)
    state = total
    with turns_of(target):
        target.tap("final")
        row = target.open()
    try:
        for begin in range(0, len(tokens), size):
            part = list(tokens[begin : begin + size])
            with turns_of(target):
                scores = target.score([Call(row, part, TokenTree.root(part[-1]))])
                state = scores.hidden("final")[0].astype(np.float64)
                total = total + scores.read(0, "final").sum(axis=0, dtype=np.float64) + state
                target.keep([row], [[]])
    finally:
        with turns_of(target):
            target.free([row])
    vector = total / len(tokens) if pooling == "mean" else state
    norm = np.linalg.norm(vector)
    return (vector / norm if norm > 0 else vector).astype(np.float32)
