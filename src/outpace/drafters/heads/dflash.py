"""DFlash: a few layers that attend to all of the target's states fill in a whole block of masks at once.

DFlash (Chen et al. 2026, arXiv:2602.06036); with a Markov head between the slots DSpark (DeepSeek 2026,
arXiv:2607.05147). What is computed: `heads/dflash.py`, `heads/dflash_pass.py`. Layers of others come in by
`outpace heads import`.

    observe   the call that verified the last draft has the states of every committed token: what the layers
              read of them waits until they draft again
    propose   one pass over these, the root and a mask for each token to come; then the tree takes the
              likeliest paths, best first (`blocks.py`)

Each layer has a row of keys and values for each text: of all its committed tokens before the root, as far as
their states have been seen; of a prompt that was read in several calls, those of the last one alone.

Deviations. The chain of the likeliest tokens, as the papers draft, is `tree=chain:length=N`. A confidence
head of DSpark is not read: trees end by their probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Embedded, TreePolicy
from outpace.core.errors import CacheFull
from outpace.core.layers import Floats
from outpace.core.options import checked
from outpace.core.steps import Ask, Step
from outpace.drafters.heads.blocks import BlockDrafter, check_options
from outpace.drafters.heads.given import Inputs, Waiting, give_back, groups, read_ahead
from outpace.heads.dflash import METHOD
from outpace.heads.dflash_pass import Block, DFlashPass
from outpace.heads.embeddings import embedded
from outpace.heads.packaged import heads_for


class DFlashState(Waiting):
    """A row: what waits are its committed tokens before the root.

    begun  whether its first call has been observed. row, lost: see `given.Text`.
    """

    __slots__ = ("begun", "lost", "row", "unread")

    def __init__(self, layers: DFlashPass) -> None:
        super().__init__(layers)
        self.begun = False
        self.unread = 0
        self.row: int | None = None
        self.lost = False

    def add(self, states: Floats) -> None:
        """States f32[n, T * D] of committed tokens."""
        self.unread += len(states)
        self.add_states(states)

    def inputs(self, count: int) -> Inputs:
        """Of the first of them; nothing stands in their residual stream that anybody reads."""
        first = self.first(count)
        return first, np.zeros_like(first)

    def drop(self, count: int) -> None:
        """They have been read."""
        self.unread -= count
        self.drop_first(count)


class DFlash(BlockDrafter):
    """Trees of the `size` likeliest nodes of a block, no path less likely than `min_p`.

    path  folder of the layers; "auto" for those that lie beside the model's packed weights or, if there are
          none, those that come with the package for it.
    tree  another shape; `size` and `min_p` have no effect then.
    """

    @checked
    def __init__(
        self,
        target: Embedded,
        beside: Callable[[str], Path] | None = None,
        *,
        path: str = "auto",
        size: int = 6,
        min_p: float = 0.1,
        tree: TreePolicy | None = None,
    ) -> None:
        check_options(METHOD, size, min_p)
        folder = heads_for(embedded(target, METHOD), METHOD, beside) if path == "auto" else path
        self._pass = DFlashPass(target, folder)
        super().__init__(self._pass, size=size, min_p=min_p, tree=tree, paced="always")

    def start(self, prompt: Prompt) -> DFlashState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return DFlashState(self._pass)

    def observe(self, states: Sequence[DFlashState], steps: Sequence[Step]) -> list[DFlashState]:
        """The committed tokens but the next root are to be read, each with its own states."""
        for state, step in zip(states, steps, strict=True):
            if state.lost:
                continue
            if not state.begun:
                state.begun = True
                state.add(self._states(step.scores.read))
            state.add(self._states(step.scores.hidden)[[0, *step.verdict.path]])
        return list(states)

    def stop(self, state: DFlashState) -> None:
        """Give the row back."""
        give_back(self._pass, state)

    def _is_able(self, state: DFlashState) -> bool:
        """Make ready what has waited; whether the layers can draft for the row."""
        if state.lost or not state.begun:
            return False
        state.fuse()
        return read_ahead(self._pass, state)

    def _blocks(
        self, states: Sequence[DFlashState], asks: Sequence[Ask], levels: Sequence[int]
    ) -> list[Block | None]:
        """In one call of each layer, or more where it is full; None where there is no memory left."""
        found: list[Block | None] = [None] * len(states)
        sizes = [state.unread + self._pass.config.block_size for state in states]
        for places in groups(sizes, self._pass.max_nodes):
            some = [states[place] for place in places]
            try:
                blocks = self._pass(
                    [state.row for state in some if state.row is not None],
                    [state.first(state.unread) for state in some],
                    [asks[place].root for place in places],
                    [levels[place] for place in places],
                )
            except CacheFull:
                continue
            for place, block in zip(places, blocks, strict=True):
                found[place] = block
                states[place].drop(states[place].unread)
        return found

    def _states(self, of: Callable[[str], Floats]) -> Floats:
        """f32[n, T * D] at the taps, as a step's scores show them."""
        return np.concatenate([of(tap) for tap in self._pass.config.taps], axis=1)
