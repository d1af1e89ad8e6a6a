"""A table target that chooses after a node when somebody looks there.

Of a tree's nodes a rule looks at those of one path: where a test writes thousands of texts, the choices after
all the others are most of its time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, overload

import numpy as np

from outpace.core.call import Call
from outpace.core.edits import Edit
from outpace.core.sampling import Sampling, choose
from outpace.targets.table import TableScores, TableTarget


class LazyTable(TableTarget):
    def score(self, calls: Sequence[Call]) -> TableScores:
        scores = super().score(calls)
        return LazyScores(scores._trees, scores._logits)


class LazyScores(TableScores):
    def choose(
        self,
        samplings: Sequence[Sampling],
        positions: Sequence[int],
        edits: Sequence[Sequence[Edit | None] | None] | None = None,
        top: int = 0,
    ) -> list[list[int]]:
        if edits is not None:
            return super().choose(samplings, positions, edits, top)
        rows = zip(self._logits, samplings, positions, self._trees, strict=True)
        lazy = [
            LazyChoices(logits, sampling, [position + 1 + depth for depth in tree.shape.depths])
            for logits, sampling, position, tree in rows
        ]
        return cast(Any, lazy)


class LazyChoices(Sequence[int]):
    """The choice after each node of a row."""

    def __init__(self, logits: np.ndarray, sampling: Sampling, positions: Sequence[int]) -> None:
        self.logits = logits
        self.sampling = sampling
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, node: int) -> int: ...

    @overload
    def __getitem__(self, node: slice) -> list[int]: ...

    def __getitem__(self, node: int | slice) -> int | list[int]:
        if isinstance(node, slice):
            return choose(self.logits[node], self.sampling, self.positions[node])
        node = range(len(self))[node]
        return self[node : node + 1][0]
