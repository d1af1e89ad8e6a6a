"""The paper's head 1: a target whose own choice goes through a learned layer, which changes its output.

Stern, Shazeer & Uszkoreit 2018, arXiv:1811.03115: the layer before the output matrix serves all k heads, the
first included. Heads trained in this way (`outpace train blockwise --first learned`) turn their target into
this one. Its output is near the original's if training went well, and not the same: it is declared lossy, and
only used where a user asks for it.

    target = HeadedTarget(HfSeq2SeqTarget(model), "heads/")
    drafter = Blockwise(target, path="heads/")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from outpace.core.call import Call, Kept, Source
from outpace.core.contracts import Closable, Tapped
from outpace.core.products import Product
from outpace.core.steps import Exactness, Scores
from outpace.core.tree import TokenTree
from outpace.heads.proposals import FINAL, FirstHead
from outpace.targets.table import TableScores


class HeadedTarget:
    """A `Tapped` target with head 1 of a folder of heads in front of its output matrix."""

    exactness: Exactness = "lossy"

    def __init__(self, target: Tapped, path: str | Path) -> None:
        self._head = FirstHead(target, path)
        self._target = target
        self.vocab_size = target.vocab_size
        self.context_length = target.context_length
        self.eos_ids = target.eos_ids
        self.hidden_size = target.hidden_size
        self.traits = target.traits

    def open(self, source: Source | None = None) -> int:
        """See `Target`."""
        return self._target.open(source)

    def score(self, calls: Sequence[Call]) -> HeadedScores:
        """See `Target`."""
        return HeadedScores(
            self._target.score(calls), self._head, [call.tree for call in calls if call.wanted]
        )

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        """See `Target`."""
        self._target.keep(rows, paths)

    def fork(self, row: int) -> int:
        """See `Target`."""
        return self._target.fork(row)

    def free(self, rows: Sequence[int]) -> None:
        """See `Target`."""
        self._target.free(rows)

    def length(self, row: int) -> int:
        """See `Target`."""
        return self._target.length(row)

    def fingerprint(self) -> str:
        """That of the target beneath, whose heads these are."""
        return self._target.fingerprint()

    def tap(self, *names: str) -> None:
        """See `Tapped`."""
        self._target.tap(*names)

    def close(self) -> None:
        """See `Closable`."""
        if isinstance(self._target, Closable):
            self._target.close()

    def product(self, weight: NDArray[np.float32]) -> Product:
        """See `Tapped`."""
        return self._target.product(weight)

    def projection(self, token_ids: NDArray[np.integer] | None = None) -> Product:
        """The output matrix of the target beneath, which the other heads' states go through."""
        return self._target.projection(token_ids)


class HeadedScores(TableScores):
    """Scores of head 1's logits, made from the states at "final"; the states are those beneath."""

    def __init__(self, scores: Scores, head: FirstHead, trees: Sequence[TokenTree]) -> None:
        ends = np.cumsum([tree.num_nodes for tree in trees])
        super().__init__(trees, np.split(head.logits(scores.hidden(FINAL)), ends[:-1]))
        self._scores = scores

    def hidden(self, tap: str) -> NDArray[np.float32]:
        """States of the target beneath."""
        return self._scores.hidden(tap)

    def read(self, row: int, tap: str) -> NDArray[np.float32]:
        """States of the target beneath."""
        return self._scores.read(row, tap)
