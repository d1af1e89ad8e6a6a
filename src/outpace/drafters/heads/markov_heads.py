"""Markov heads: one pass over the target's states proposes a block, whose tokens know those before them.

After DFlash (2026, arXiv:2602.06036: all positions in one pass) and DSpark (DeepSeek 2026: a low-rank Markov
head between them). What is computed: `heads/markov_heads.py`. Trained by `outpace train markov_heads`.

    observe   the call that verified the last draft has the states at every tap behind the last kept node
    propose   one pass from these and the root; then tokens are put in order along each path, by products of
              low rank: the tree takes the likeliest paths, best first

Where the rule reads laws, or somebody names a `tree`, the growth loop draws from the whole law of each node.
With sampling, drafts add the target's noise to their logits and so draft the very sample.

Deviation. The layer before the positions reads the states of one token, where DFlash attends to those of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Prompt
from outpace.core.contracts import Embedding, TreePolicy
from outpace.core.options import checked
from outpace.core.steps import Ask, Step
from outpace.drafters.heads.blocks import BlockDrafter, check_options
from outpace.heads.markov_heads import METHOD
from outpace.heads.markov_pass import Block, MarkovPass, embedding
from outpace.heads.packaged import heads_for


class MarkovState:
    """A row: the states f32[T, D] that the root was chosen from; None before the prompt's own call."""

    __slots__ = ("states",)

    def __init__(self) -> None:
        self.states: NDArray[np.float32] | None = None


class MarkovHeads(BlockDrafter):
    """Trees of the `size` likeliest nodes of a block, no path less likely than `min_p`.

    path  folder of the heads; "auto" for those that `outpace prepare` has made for the model or, if there are
          none, those that come with the package for it.
    tree  another shape; `size` and `min_p` have no effect then.
    """

    @checked
    def __init__(
        self,
        target: Embedding,
        beside: Callable[[str], Path] | None = None,
        *,
        path: str = "auto",
        size: int = 6,
        min_p: float = 0.1,
        tree: TreePolicy | None = None,
    ) -> None:
        check_options(METHOD, size, min_p)
        folder = heads_for(embedding(target), METHOD, beside) if path == "auto" else path
        self._pass = MarkovPass(target, folder)
        super().__init__(self._pass, size=size, min_p=min_p, tree=tree)

    def start(self, prompt: Prompt) -> MarkovState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return MarkovState()

    def observe(self, states: Sequence[MarkovState], steps: Sequence[Step]) -> list[MarkovState]:
        """Keep the states behind the last kept node: the token after it is the next root."""
        for state, step in zip(states, steps, strict=True):
            last = step.verdict.path[-1] if step.verdict.path else 0
            state.states = self._pass.states(step.scores, last)
        return list(states)

    def stop(self, state: MarkovState) -> None:
        """There is nothing to give back."""

    def _is_able(self, state: MarkovState) -> bool:
        return state.states is not None

    def _blocks(
        self, states: Sequence[MarkovState], asks: Sequence[Ask], levels: Sequence[int]
    ) -> list[Block]:
        read = [state.states for state in states if state.states is not None]
        return self._pass(np.stack(read), [ask.root for ask in asks])
