"""What drafters of heads hold of a row: the state that its root was chosen from.

The call that verifies a draft has the hidden state behind every node. That of the last kept node stays: the
token after it is the next root.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.steps import Step
from outpace.heads.proposals import FINAL


class HeadsState:
    """A row: the state f32[D] behind the token before the root; None before the prompt's own call."""

    __slots__ = ("hidden",)

    def __init__(self) -> None:
        self.hidden: NDArray[np.float32] | None = None


def keep_last(states: Sequence[HeadsState], steps: Sequence[Step]) -> list[HeadsState]:
    """The states after these steps."""
    for state, step in zip(states, steps, strict=True):
        last = step.verdict.path[-1] if step.verdict.path else 0
        state.hidden = step.scores.hidden(FINAL)[last]
    return list(states)


def begun_rows(states: Sequence[HeadsState]) -> list[int]:
    """The rows whose prompt's own call has been observed."""
    return [row for row, state in enumerate(states) if state.hidden is not None]


def stacked(states: Sequence[HeadsState]) -> NDArray[np.float32]:
    """f32[n, D]."""
    hidden = [state.hidden for state in states if state.hidden is not None]
    assert len(hidden) == len(states), "the prompt's own call is observed before anything is proposed"
    return hidden[0][None] if len(hidden) == 1 else np.stack(hidden)
