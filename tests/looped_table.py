"""A looped model as a table: what comes out after each loop is known, and every pass is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from outpace.core.call import Call, Kept, Pass
from outpace.core.tree import TokenTree
from outpace.targets.table import TableScores, TableTarget


@dataclass(frozen=True)
class Under:
    """A node under way: the tokens before it and its own, all the way down, and the loops it has run."""

    text: tuple[int, ...]
    loops: int


class LoopedTable(TableTarget):
    """After loop r < R - 1 the table is right in a share `agreement` of contexts, and wrong in the others."""

    num_loops: int
    agreement: float
    passes = 0  # how many it ran; most: nodes of the largest
    most = 0

    @classmethod
    def of(cls, num_loops: int, agreement: float, **options: Any) -> LoopedTable:
        made = cls.random(**options)
        made.num_loops, made.agreement = num_loops, agreement
        rng = np.random.default_rng(7)
        right = rng.random((num_loops, *made.table.shape[:-1])) < agreement
        # Its likeliest token is the least likely one, and the other way round.
        made.outputs = np.where(right[..., None], made.table, -made.table)
        made.outputs[-1] = made.table
        return made

    outputs: Any
    _under: dict[int, list[Under]]

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Any] | None = None) -> TableScores:
        """One loop of every node, each of which must be where it says that it is."""
        assert not heads, "a table has no states"
        assert len({one.row for one in passes}) == len(passes), "different rows"
        self._under = vars(self).get("_under", {})
        trees, logits = [], []
        for one in passes:
            before, tree = self._rows[one.row], one.tree
            old, new = self._under.get(one.row, []), list[Under]()
            assert len(before) + 1 + tree.shape.height <= self.context_length
            for node, (loop, came) in enumerate(zip(one.loops, one.came, strict=True)):
                text = (*before, *(tree.token_list[i] for i in tree.path_to(node)))
                if came < 0:
                    assert loop == 0, "what is new begins with loop 0"
                else:
                    assert old[came] == Under(text, loop), "a node goes on from where it was"
                parent = tree.shape.parent_list[node]
                assert parent < 0 or one.loops[parent] >= loop, "its keys need those of its parent"
                assert loop < self.num_loops
                new.append(Under(text, loop + 1))
            self._under[one.row] = new
            for node in one.wanted:
                trees.append(TokenTree.root(tree.token_list[node]))
                logits.append(self._output(new[node])[None])
            self._scored[one.row] = one  # type: ignore[assignment]
        self.passes += 1
        self.most = max(self.most, sum(one.tree.num_nodes for one in passes))
        return TableScores(trees, logits)

    def _output(self, under: Under) -> Any:
        context = [0] * self.order + list(under.text[-self.order :])
        return self.outputs[(under.loops - 1, *context[-self.order :])]

    def keep(self, rows: Sequence[int], paths: Sequence[Kept]) -> None:
        for row, path in zip(rows, paths, strict=True):
            one = self._scored[row]
            if isinstance(one, Call):
                super().keep([row], [path])
                continue
            assert path is not None
            nodes = [0, *path]
            assert all(one.loops[node] == self.num_loops - 1 for node in nodes), "through with all loops"
            assert one.tree.path_to(nodes[-1]) == nodes
            self._rows[row] += [one.tree.token_list[node] for node in nodes]
            del self._scored[row]

    def score(self, calls: Sequence[Call]) -> TableScores:
        for call in calls:
            vars(self).get("_under", {}).pop(call.row, None)
        return super().score(calls)


class TimedTable(LoopedTable):
    """Its passes take what `cost` says of their nodes, by the clock `now`, and a whole call as many as R."""

    now = 0.0
    cost = staticmethod(lambda size: 1.0)
    sizes: list[int]

    def advance(self, passes: Sequence[Pass], heads: Mapping[int, Any] | None = None) -> TableScores:
        size = sum(one.tree.num_nodes for one in passes)
        self.sizes = [*vars(self).get("sizes", []), size]
        self.now += self.cost(size)
        return super().advance(passes, heads)

    def score(self, calls: Sequence[Call]) -> TableScores:
        self.now += self.num_loops * self.cost(sum(call.joined.num_nodes for call in calls))
        return super().score(calls)
