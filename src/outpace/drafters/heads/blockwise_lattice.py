"""Blockwise drafts mended by n-grams: the likeliest paths through the heads' lattice, by both.

Kim et al. 2024, "Exploring and Improving Drafts in Blockwise Parallel Decoding", arXiv:2404.09221, global
n-gram rescoring. Heads do not know one another's choice, so their best tokens repeat or do not fit together;
an n-gram model that reads along the path knows that, and little else.

    lattice   of each head the few best tokens S_j with log-probabilities z_j
    after     below a node, z_j[S_j] += alpha * log r(S_j | path), r by a back-off table, normalised to the
              mass that S_j had before
    propose   the likeliest paths, one tree, in one call of the target

Deviations. The paper verifies the p best paths as a batch; here they share their beginnings. Head 1 is the
target's own choice and committed already. Tokens that the table does not name weigh FLOOR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from outpace.core.call import Prompt
from outpace.core.contracts import Tapped
from outpace.core.errors import OutpaceError
from outpace.core.options import checked
from outpace.core.steps import Ask, Step
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.drafters.heads.blockwise import Blockwise
from outpace.drafters.heads.independent import Pairs
from outpace.drafters.heads.last_state import HeadsState
from outpace.drafters.lookup.backoff import table_for
from outpace.trees.likeliest import After, likeliest

FLOOR = 1e-3  # probability of a token that the table does not list among the likeliest


class BlockwiseLatticeState:
    """A row of the heads, and its last tokens, the root included."""

    __slots__ = ("heads", "text")

    def __init__(self, heads: HeadsState, text: list[int]) -> None:
        self.heads = heads
        self.text = text


class BlockwiseLattice:
    """Trees of the likeliest paths by heads and n-grams.

    ngrams  a table made by `outpace datastore count`; None for the one stored with the model's weights.
    alpha   weight of the n-grams' log-probabilities; the heads' have 1.

    The other options are those of `blockwise`.
    """

    traits = Traits(branches=True, whole_calls=True)

    @checked
    def __init__(
        self,
        target: Tapped,
        tokenizer: Any,
        beside: Callable[[str], Path] | None,
        *,
        path: str = "auto",
        heads: int | None = None,
        size: int = 6,
        min_p: float = 0.1,
        ngrams: str | None = None,
        alpha: float = 0.3,
    ) -> None:
        if alpha < 0:
            raise OutpaceError(f"blockwise_lattice has alpha={alpha}, accepted are numbers >= 0")
        self._heads = Blockwise(target, path=path, heads=heads, size=size, min_p=min_p)
        self._table = table_for(target, tokenizer, beside, ngrams)
        self._alpha = alpha
        self._size = size
        self._min_p = min_p

    def start(self, prompt: Prompt) -> BlockwiseLatticeState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return BlockwiseLatticeState(self._heads.start(prompt), list(prompt[-self._table.order :]))

    def propose(self, states: Sequence[BlockwiseLatticeState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row. logq: log-probabilities of the heads' tokens, mended."""
        by_depth = self._heads.expected([state.heads for state in states], asks)
        return [
            likeliest(
                state.text,
                self._after(pairs),
                size=min(self._size, ask.budget),
                depth=ask.depth,
                min_p=self._min_p,
            )
            for state, ask, pairs in zip(states, asks, by_depth, strict=True)
        ]

    def observe(
        self, states: Sequence[BlockwiseLatticeState], steps: Sequence[Step]
    ) -> list[BlockwiseLatticeState]:
        """The heads' states, and the text."""
        self._heads.observe([state.heads for state in states], steps)
        for state, step in zip(states, steps, strict=True):
            state.text = [*state.text, *step.tokens][-self._table.order :]
        return list(states)

    def stop(self, state: BlockwiseLatticeState) -> None:
        """There is nothing to give back."""

    def _after(self, pairs: list[Pairs]) -> After:
        return lambda text, depth: self._mend(text, pairs[depth]) if depth < len(pairs) else ()

    def _mend(self, text: list[int], pairs: Pairs) -> Pairs:
        """The same tokens, their probabilities weighed by the n-grams after the text; their sum stays."""
        known = dict(self._table.next(text))
        mended = [q * known.get(token, FLOOR) ** self._alpha for token, q in pairs]
        total = sum(mended)
        if total <= 0:
            return pairs
        share = sum(q for _, q in pairs) / total
        return [(token, q * share) for (token, _), q in zip(pairs, mended, strict=True)]
