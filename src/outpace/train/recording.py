"""Hidden states taken while a model decodes: what heads train on costs nothing beside the text itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Prompt
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.heads.markov_heads import scaled

FINAL = "final"


def kept_states(taps: Sequence[str], hidden: Callable[[str], NDArray[np.float32]]) -> NDArray[np.float16]:
    """f16[N, T * D]: what training keeps of N tokens at T taps. `hidden` gives f32[N, D] at a tap.

    Layers have states of any size, which f16 cannot hold and heads do not read: they are scaled.
    """
    states = [hidden(tap) if tap == FINAL else scaled(hidden(tap)) for tap in taps]
    return np.concatenate(states, axis=1).astype(np.float16)


class Recorder:
    """A drafter that drafts nothing and writes down the state that each committed token was chosen from.

    `rows` are in the order in which requests were started: `kept_states` for every token of each.
    """

    traits = Traits()

    def __init__(self, taps: Sequence[str] = (FINAL,)) -> None:
        self.taps = tuple(taps)
        self.rows: list[list[NDArray[np.float16]]] = []

    def start(self, prompt: Prompt) -> list[NDArray[np.float16]]:
        """A new row."""
        self.rows.append([])
        return self.rows[-1]

    def propose(self, states: Sequence[list[NDArray[np.float16]]], asks: Sequence[Ask]) -> list[TokenTree]:
        """Roots alone."""
        return [TokenTree.root(ask.root) for ask in asks]

    def observe(
        self, states: Sequence[list[NDArray[np.float16]]], steps: Sequence[Step]
    ) -> list[list[NDArray[np.float16]]]:
        """The state behind the root is what the step's one token was chosen from."""
        for state, step in zip(states, steps, strict=True):
            state.append(kept_states(self.taps, step.scores.hidden)[0])
        return list(states)

    def stop(self, state: list[NDArray[np.float16]]) -> None:
        """The row's states stay."""

    def take(self) -> list[NDArray[np.float16]]:
        """f16[n, T * D] of every row, and a fresh start."""
        rows, self.rows = self.rows, []
        return [np.stack(row) for row in rows]
