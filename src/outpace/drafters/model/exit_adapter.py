"""Kangaroo's self-speculation: behind the target's first layers a small trained adapter names the next token.

Liu et al. 2024, "Kangaroo: Lossless Self-Speculative Decoding via Double Early Exiting", arXiv:2404.18911.
What is computed: `heads/exit_adapter.py`. Trained by `outpace train early_exit`.

    propose   a level of a tree is one call of the first E layers (`Layered.run`) and one of the adapter
    stop      the first token below a probability of 0.6 is not drafted; six are enough (the paper's)
    observe   the call that verified the draft shows the states behind E of every committed token, prompts
              included, which the adapter reads before it drafts again

The adapter has a row of keys and values for each text. Of a prompt that was read in several calls it holds
what the last one has read.

Deviations. In the paper verification begins with the drafted tokens' states behind layer E. Here it runs all
layers for them: a call that shows those states does not go on from one that ended there. Levels of a draft do
go on from one another. The stop looks at the likeliest token, drawn or not: the drafts' law stays exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import TreePolicy
from outpace.core.layers import Floats
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters.heads.given import Inputs, Levels, give_back, read_ahead
from outpace.drafters.model.own_layers import idle_unread, run_part, traits_on_rows
from outpace.heads.exit_adapter_layer import ExitAdapter, Exited
from outpace.trees.chain import Chain
from outpace.trees.grow import grow_trees


class AdaptedState:
    """A row: the states behind E of committed tokens before the root that the adapter has not read.

    is_new  the text's first call has not been observed. row, lost: see `given.Text`.
    """

    __slots__ = ("_adapter", "is_new", "lost", "row", "states", "unread")

    def __init__(self, adapter: ExitAdapter) -> None:
        self.states: list[Floats] = []  # z, arrays [n, D]
        self.unread = 0
        self.is_new = True
        self.row: int | None = None
        self.lost = False
        self._adapter = adapter

    def add(self, states: Floats) -> None:
        """More of them."""
        self.states.append(states)
        self.unread += len(states)

    def inputs(self, count: int) -> Inputs:
        """Those of the first of them."""
        self.states = [np.concatenate(self.states)]
        return self._adapter.inputs(self.states[0][:count])

    def drop(self, count: int) -> None:
        """They have been read."""
        self.states = [np.concatenate(self.states)[count:]]
        self.unread -= count


class AdaptedExit:
    """Trees of the first layers and an adapter behind them."""

    def __init__(self, adapter: ExitAdapter, *, tree: TreePolicy | None = None, target: Exited) -> None:
        self._adapter = adapter
        self._target = target
        self._tree: TreePolicy = Chain(length=6, min_p=0.6) if tree is None else tree
        self.traits = traits_on_rows(self._tree, own=tree is None)

    def start(self, prompt: Prompt) -> AdaptedState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return AdaptedState(self._adapter)

    def propose(self, states: Sequence[AdaptedState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row; root-only where the adapter has nothing to go on from."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        able = [
            n
            for n, (state, ask) in enumerate(zip(states, idle_unread(asks), strict=True))
            if min(ask.budget, ask.depth) > 0 and not state.is_new and read_ahead(self._adapter.rows, state)
        ]
        some = [asks[n] for n in able]

        def enter(rows: Sequence[int], parts: Sequence[TokenTree], new: Sequence[Sequence[int]]) -> Inputs:
            scores, wanted, sizes = run_part(
                self._target, some, rows, parts, new, layers=self._adapter.config.layers
            )
            starts = np.cumsum([0, *sizes[:-1]])
            at = [start + place for start, now in zip(starts, wanted, strict=True) for place in now]
            return self._adapter.inputs(scores.hidden("final")[at])

        levels = Levels(self._adapter.rows, [states[n] for n in able], enter, self._adapter.logits)
        for n, tree in zip(able, grow_trees(some, self._tree, levels.step), strict=True):
            trees[n] = tree
        return trees

    def observe(self, states: Sequence[AdaptedState], steps: Sequence[Step]) -> list[AdaptedState]:
        """The states of what a call has read and of what was kept; the new root has none yet."""
        tap = self._adapter.config.tap
        for state, step in zip(states, steps, strict=True):
            if state.lost:
                continue
            found = [step.scores.hidden(tap)[[0, *step.verdict.path]]]
            if state.is_new:
                found.insert(0, step.scores.read(tap))
            state.is_new = False
            state.add(self._adapter.exit_states(np.concatenate(found)))
        return list(states)

    def stop(self, state: AdaptedState) -> None:
        """Give the row back."""
        give_back(self._adapter.rows, state)
