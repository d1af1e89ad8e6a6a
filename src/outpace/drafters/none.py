"""Plain decoding: propose nothing, so that every step is one token of the target.

The token is an argmax over logits and noise (Maddison, Tarlow & Minka 2014, arXiv:1411.0030), a function of
the text before it (`core/sampling.py`).

    propose   the root alone
    observe   nothing
"""

from __future__ import annotations

from collections.abc import Sequence

from outpace.core.call import Prompt
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree


class NoDraft:
    """The baseline that every drafter is compared with."""

    traits = Traits()

    def start(self, prompt: Prompt) -> None:
        """There is nothing to remember."""

    def propose(self, states: Sequence[None], asks: Sequence[Ask]) -> list[TokenTree]:
        """A root-only tree for each row."""
        return [TokenTree.root(ask.root) for ask in asks]

    def observe(self, states: Sequence[None], steps: Sequence[Step]) -> list[None]:
        """There is nothing to learn."""
        return list(states)

    def fork(self, state: None) -> None:
        """There is nothing to copy."""

    def stop(self, state: None) -> None:
        """There is nothing to give back."""
