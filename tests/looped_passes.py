"""Rows of a looped target whose nodes are of any age, and what their passes must say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from outpace.core.call import Pass
from outpace.core.tree import TokenTree
from tests.fake_models import VOCAB_SIZE
from tests.rows import on


@dataclass(eq=False)
class Node:
    """A token in flight; as `decode.pipelined.Branch`."""

    token: int
    parent: Node | None
    loop: int = 0
    came: int = -1

    def path(self) -> list[int]:
        """The tokens from the root down to this one."""
        return [*(self.parent.path() if self.parent else []), self.token]


@dataclass
class Row:
    """text: what it has committed. source: which one it is written from, where there are some."""

    number: int
    text: list[int]
    source: int = 0
    nodes: list[Node] = field(default_factory=list)

    def change(self, rng: np.random.Generator) -> None:
        """Branches go and others enter."""
        if not self.nodes:
            self.nodes = [Node(int(rng.integers(VOCAB_SIZE)), None)]
        kept: list[Node] = []
        for node in self.nodes:
            if node.parent is None or (node.parent in kept and rng.random() < 0.85):
                kept.append(node)
        for _ in range(int(rng.integers(0, 3))):
            kept.append(Node(int(rng.integers(VOCAB_SIZE)), kept[int(rng.integers(len(kept)))]))
        self.nodes = kept

    def to_pass(self) -> Pass:
        """All nodes, each with scores."""
        number = {id(node): i for i, node in enumerate(self.nodes)}
        parents = [-1 if node.parent is None else number[id(node.parent)] for node in self.nodes]
        tree = TokenTree([node.token for node in self.nodes], parents)
        loops, came = [node.loop for node in self.nodes], [node.came for node in self.nodes]
        return Pass(self.number, tree, loops, came, range(len(self.nodes)))

    def commit(self, target: Any, rng: np.random.Generator) -> None:
        """What is through, along one path; the row goes on below it, or anew."""
        for came, node in enumerate(self.nodes):
            node.loop, node.came = node.loop + 1, came
        last = target.num_loops
        if self.nodes[0].loop < last:
            return
        path = [self.nodes[0]]
        while through := [n for n in self.nodes if n.parent is path[-1] and n.loop == last]:
            path.append(through[int(rng.integers(len(through)))])
        target.keep([self.number], [[node.came for node in path[1:]]])
        self.text += [node.token for node in path]
        roots = [node for node in self.nodes if node.parent is path[-1]]
        kept = [roots[int(rng.integers(len(roots)))]] if roots and rng.random() < 0.8 else []
        if kept:
            kept[0].parent = None
            for node in self.nodes:
                if node.parent in kept:
                    kept.append(node)
        self.nodes = kept


def check_staggered(
    target: Any,
    rows: list[Row],
    expected: Callable[[Row, Sequence[int]], Any],
    *,
    bias: Any = 0.0,
    bound: float,
) -> None:
    """Random passes.

    expected  [R, V] after every loop, of a row's text and these tokens. bias: [V], what the model adds last.
    """
    rng = np.random.default_rng(7)
    for turn in range(16):
        some = [row for row in rows if rng.random() < 0.8] or rows
        for row in some:
            row.change(rng)
        factors = {1: 2.0, target.num_loops - 1: 0.5} if turn % 2 else {}
        heads = {loop: partial(np.multiply, factor) for loop, factor in factors.items()}
        scores = target.advance([row.to_pass() for row in some], heads)
        at = 0
        for row in some:
            for node in row.nodes:
                theirs = expected(row, node.path())[node.loop]
                theirs = (theirs - bias) * factors.get(node.loop + 1, 1.0) + bias
                assert np.abs(scores.logits(at, [0])[0] - theirs).max() < 2 * bound
                at += 1
        for row in some:
            row.commit(target, rng)
            assert target.length(row.number) == len(row.text)
        if turn == 7:  # an older row goes, and others, in flight, take its place
            target.score(on([rows[1].number], [TokenTree.root(4)]))
            rows[1].nodes = []
            target.free([rows.pop(0).number])
    tree = TokenTree([11, 20, 21, 22], [-1, 0, 0, 1])
    scores = target.score(on([row.number for row in rows], [tree] * len(rows)))
    for place, row in enumerate(rows):
        theirs = expected(row, [11, 20, 22])[-1]
        assert np.abs(scores.logits(place, [3])[0] - theirs).max() < bound
