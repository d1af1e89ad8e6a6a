"""Hydra: heads like Medusa's that know the tokens drafted before theirs.

Ankner et al. 2024, "Hydra: Sequentially-Dependent Draft Heads for Medusa Decoding", arXiv:2402.05109. What is
computed: `heads/hydra.py`, `heads/hydra_heads.py`. Trained by `outpace train hydra`.

    observe   the call that verified the last draft has the hidden state behind every node: that of the last
              kept node stays
    propose   a TreePolicy grows a tree level by level: head h reads that state, the root, and the tokens on
              the path to a node of depth h - 1, and says what follows it

Deviation. The paper's trees are fixed, from statistics of how often each rank is right; here the default is a
small tree that grows where the heads are sure. A fixed one is `tree=static:ranks=...`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from outpace.core.call import Prompt
from outpace.core.contracts import Embedded, TreePolicy
from outpace.core.layers import Floats
from outpace.core.options import checked
from outpace.core.steps import Ask, Step
from outpace.core.tree import TokenTree
from outpace.drafters.heads.last_state import HeadsState, begun_rows, keep_last, stacked
from outpace.heads.embeddings import embedded
from outpace.heads.hydra import METHOD
from outpace.heads.hydra_heads import HydraHeads
from outpace.heads.packaged import heads_for
from outpace.trees.dynamic import Dynamic
from outpace.trees.grow import Logits, grow_trees, traits_of


class Hydra:
    """Trees of Hydra heads.

    path   folder of the heads; "auto" for those that lie with the model's packed weights or, if there are
           none, those that come with the package for it.
    heads  how many heads to use; None for all.
    tree   the shape of drafts; None for a small tree of EAGLE-2's kind, as deep as there are heads.
    """

    @checked
    def __init__(
        self,
        target: Embedded,
        beside: Callable[[str], Path] | None = None,
        *,
        path: str = "auto",
        heads: int | None = None,
        tree: TreePolicy | None = None,
    ) -> None:
        folder = heads_for(embedded(target, METHOD), METHOD, beside) if path == "auto" else path
        self._heads = HydraHeads(target, folder, num_heads=heads)
        self.policy: TreePolicy = (
            Dynamic(size=6, k=2, depth=self._heads.num_drafted) if tree is None else tree
        )
        self.traits = replace(traits_of(self.policy, own=tree is None), whole_calls=True)

    def start(self, prompt: Prompt) -> HeadsState:
        """Nothing is proposed before the prompt's own call has been observed."""
        return HeadsState()

    def propose(self, states: Sequence[HeadsState], asks: Sequence[Ask]) -> list[TokenTree]:
        """A tree for each row. logq: the heads' log-probabilities."""
        trees = [TokenTree.root(ask.root) for ask in asks]
        able = [row for row in begun_rows(states) if min(asks[row].budget, asks[row].depth) > 0]
        if able:
            some = [asks[row] for row in able]
            drafts = Drafts(self._heads, stacked([states[row] for row in able]), [ask.root for ask in some])
            for row, tree in zip(able, grow_trees(some, self.policy, drafts.step), strict=True):
                trees[row] = tree
        return trees

    def observe(self, states: Sequence[HeadsState], steps: Sequence[Step]) -> list[HeadsState]:
        """Keep the state behind the last kept node: the token after it is the next root."""
        return keep_last(states, steps)

    def stop(self, state: HeadsState) -> None:
        """There is nothing to give back."""


class Drafts:
    """The heads as a step function (see `trees.grow`), for the rows of one `propose`.

    hidden  f32[n, D], what the roots were chosen from.
    """

    def __init__(self, heads: HydraHeads, hidden: Floats, roots: Sequence[int]) -> None:
        self._heads = heads
        self._hidden = hidden
        # By row and node: what the heads have read on the path to it.
        self._read: list[dict[int, Floats]] = [{0: one} for one in heads.begin(hidden, roots)]

    def step(
        self, rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> list[Logits | None]:
        """One product for all nodes of a depth; None for a row that wants more heads than there are."""
        by_depth: dict[int, list[tuple[int, int]]] = {}
        deepest = [
            max(tree.shape.depths[node] for node in now) for tree, now in zip(trees, nodes, strict=True)
        ]
        able = [at for at, depth in enumerate(deepest) if depth < self._heads.num_drafted]
        for at in able:
            for node in nodes[at]:
                by_depth.setdefault(trees[at].shape.depths[node], []).append((at, node))
        found: dict[tuple[int, int], Floats] = {}
        for depth, places in sorted(by_depth.items()):
            read = self._path_to(depth, [(rows[at], trees[at], node) for at, node in places])
            hidden = self._hidden[[rows[at] for at, _ in places]]
            found.update(zip(places, self._heads.logits(hidden, depth, read), strict=True))
        logits: list[Logits | None] = [None] * len(rows)
        for at in able:
            logits[at] = self._heads.whole(np.stack([found[at, node] for node in nodes[at]]))
        return logits

    def _path_to(self, depth: int, places: Sequence[tuple[int, TokenTree, int]]) -> Floats:
        """f32[n, H - depth, D]: what the heads have read up to and with these nodes of one depth."""
        if depth:
            above = [self._read[row][tree.shape.parent_list[node]] for row, tree, node in places]
            tokens = [tree.token_list[node] for _, tree, node in places]
            read = self._heads.follow(np.stack(above), depth, tokens)
            for (row, _, node), one in zip(places, read, strict=True):
                self._read[row][node] = one
            return read
        return np.stack([self._read[row][node] for row, _, node in places])
