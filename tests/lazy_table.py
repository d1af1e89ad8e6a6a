"""A table target that chooses after a node when somebody looks there.

Of a tree's nodes a rule looks at those of one path: where a test writes thousands of texts, the choices after
all the others are most of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from outpace.core.call import Call
from outpace.core.sampling import choose
from outpace.targets.table import TableScores, TableTarget


class LazyTable(TableTarget):
    def score(self, calls: Sequence[Call]) -> TableScores:
        scores = super().score(calls)
        return LazyScores(scores._trees, scores._logits)


class LazyScores(TableScores):
    def choose(self, samplings: Any, positions: Any, edits: Any = None, top: int = 0) -> Any:
        if edits is not None:
            return super().choose(samplings, positions, edits, top)
        return list(map(LazyChoices, self._logits, self._trees, samplings, positions))


class LazyChoices:
    """The choice after each node of a row: all that is read of it are single ones."""

    def __init__(self, *row: Any) -> None:
        self.logits, self.tree, self.sampling, self.position = row

    def __getitem__(self, node: int) -> int:
        position = self.position + 1 + self.tree.shape.depths[node]
        return choose(self.logits[node][None], self.sampling, [position])[0]
