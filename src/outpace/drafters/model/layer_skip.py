"""Draft & Verify: the target itself drafts, with some of its attentions and feed-forwards left out.

Zhang et al. 2023, "Draft & Verify: Lossless Large Language Model Acceleration via Self-Speculative Decoding",
arXiv:2309.08168.

    skip     sublayers that the residual stream bypasses; found offline, and given here
    propose  draft on while the drafted token has a probability of at least gamma
    observe  r <- b1 r + (1 - b1) accepted / drafted, the rate of acceptance
             gamma <- b2 gamma + (1 - b2) (gamma + epsilon if r <= alpha else gamma - epsilon)

Deviations. No search for the set is here (swift has one): by default the middle third of the layers is left
out. Confidence is the probability of the likeliest token of a level, drawn or not, so that ending a draft
says nothing about what was drawn and rules that use the draft's law stay exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from outpace.core.call import Prompt
from outpace.core.contracts import Layered, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.options import checked, within
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters.model.own_layers import grow_on_rows, layered, traits_on_rows
from outpace.trees.chain import Chain

RATE_MEMORY = 0.5
"""The paper's beta 1."""
STOP_MEMORY = 0.9
"""The paper's beta 2."""


class LayerSkipState:
    """How much of a row's drafts is accepted of late, and the threshold gamma that follows from it."""

    __slots__ = ("rate", "stop")

    def __init__(self, rate: float, stop: float) -> None:
        self.rate = rate
        self.stop = stop


class LayerSkip:
    """Trees of the target without the sublayers `skip`.

    skip        "a3-7,m10,12-14": attentions of the layers 3 to 7, the feed-forward of 10, both of 12 to 14;
                "" for the middle third.
    stop        the threshold gamma at the start of a text.
    adapt       epsilon; 0 leaves the threshold as it is.
    acceptance  alpha, the rate of acceptance that the threshold is steered to.
    """

    @checked
    def __init__(
        self,
        *,
        skip: str = "",
        stop: float = 0.6,
        adapt: float = 0.01,
        acceptance: float = 0.9,
        tree: TreePolicy | None = None,
        target: Layered,
    ) -> None:
        within("layer_skip", 0, 1, stop=stop, adapt=adapt, acceptance=acceptance)
        self._target = layered(target, "layer_skip")
        self.skip = read_sublayers(skip, self._target.num_layers) if skip else middle(self._target.num_layers)
        self.stop_at = stop
        self.adapt = adapt
        self.acceptance = acceptance
        self._tree: TreePolicy = Chain(length=8) if tree is None else tree
        self.traits = traits_on_rows(self._tree, own=tree is None)

    def start(self, prompt: Prompt) -> LayerSkipState:
        """As if all was going as wished."""
        return LayerSkipState(self.acceptance, self.stop_at)

    def propose(self, states: Sequence[LayerSkipState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row, each with its own threshold."""
        stop = [state.stop for state in states]
        return grow_on_rows(self._target, asks, self._tree, skip=self.skip, stop=stop)

    def observe(self, states: Sequence[LayerSkipState], steps: Sequence[Step]) -> list[LayerSkipState]:
        """Steer the threshold by what was accepted of each tree's longest path."""
        for state, step in zip(states, steps, strict=True):
            if step.tree.shape.height > 0:
                rate = len(step.verdict.path) / step.tree.shape.height
                state.rate = RATE_MEMORY * state.rate + (1 - RATE_MEMORY) * rate
                wanted = state.stop + (self.adapt if state.rate <= self.acceptance else -self.adapt)
                state.stop = min(1.0, max(0.0, STOP_MEMORY * state.stop + (1 - STOP_MEMORY) * wanted))
        return list(states)

    def stop(self, state: LayerSkipState) -> None:
        """There is nothing to give back."""


def read_sublayers(text: str, num_layers: int) -> frozenset[int]:
    """The sublayers of a text such as "a3-7,m10,12-14" by number (see `Layered`); else an OutpaceError."""
    found = set[int]()
    for part in text.split(","):
        match = re.fullmatch(r"([am]?)(\d+)(?:-(\d+))?", part.strip())
        first = int(match[2]) if match else 0
        last = int(match[3] or first) if match else -1
        if match is None or not first <= last < num_layers:
            raise OutpaceError(
                f"layer_skip has {part.strip()!r} in skip, accepted are texts like a3-7,m10,12-14 "
                f"(a: attention, m: feed-forward, bare: both) of layers 0 to {num_layers - 1}"
            )
        for layer in range(first, last + 1):
            found |= {2 * layer + half for half in (0, 1) if match[1] != "ma"[half]}
    return frozenset(found)


def middle(num_layers: int) -> frozenset[int]:
    """Both sublayers of the middle third."""
    return frozenset(range(2 * (num_layers // 3), 2 * (2 * num_layers // 3)))
