"""The common part of rules with laws: the walk from node to node, their coins, and the draw of a stand-in.

Speculative sampling (Leviathan, Kalman & Matias 2022, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318)
in its general form. At every node with children a rule keeps one of them, or rejects all and gives the law
of the token that stands in, such that over draws and coins the next token has the target's law p:

    P(child x kept) + P(all rejected) * law of the stand-in (x) = p(x)

Then by induction the whole text has the target's law, and rules differ in one method, `keep`.

Randomness. A step's coins depend on the position of its root and a count, and every step has a root of its
own, so that no coin decides twice, even where a step looked at more than it kept. At the end of a path the
target's own choice is taken, whose noise belongs to (seed, position). That noise is still fresh there:
earlier steps took choices up to the root only, and drafts that have laws have noise of their own. A stand-in
is drawn with a coin, because at its position the drafts have been looked at.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Rule
from outpace.core.sampling import Sampling, coin
from outpace.core.steps import Exactness, RowScores, Verdict
from outpace.core.tree import Draw, TokenTree
from outpace.rules.match import by_choices

Law = NDArray[np.floating]
Toss = Callable[[float], bool]
"""A new coin that comes up with this chance."""


class NodeRule(ABC):
    """A rule that decides node by node and keeps the target's law."""

    exactness: Exactness = "distribution"
    draw: Draw
    needs_law = True

    @abstractmethod
    def keep(self, p: Law, q: Law, drafts: Sequence[int], toss: Toss) -> int | Law:
        """Which of the tokens `drafts`, drawn from q in this order, is kept: its place.

        Where none is: the law of the token that stands in, [V], not normalised. p and q are f64[V] laws of
        target and drafter, and stay as they are.
        """

    def judge(self, tree: TokenTree, scores: RowScores, sampling: Sampling, position: int) -> Verdict:
        """Asks for laws on the path alone."""
        if not has_laws(self, tree, sampling):
            return by_choices(tree, scores, self.exactness)
        toss = tosses(sampling.seed, position)
        path: list[int] = []
        node = 0
        while children := tree.children(node):
            p, q = scores.law(node, sampling), tree.law(node)
            assert q is not None and len(p) == len(q), "a drafter's law is over the target's vocabulary"
            kept = self.keep(p, q, [tree.token_list[child] for child in children], toss)
            if not isinstance(kept, int):
                return Verdict(path, stand_in(kept, p, sampling.seed, position), self.exactness)
            node = children[kept]
            path.append(node)
        return Verdict(path, scores.choices[node], self.exactness)


def has_laws(rule: Rule, tree: TokenTree, sampling: Sampling) -> bool:
    """Whether a rule may judge a tree with its laws: else the target's choices decide, which is always right.

    Greedy decoding has nothing to gain from laws: all of them are one-hot.
    """
    return tree.draw == rule.draw and sampling.temperature > 0 and tree.num_nodes > 1


def tosses(seed: int, position: int) -> Toss:
    """The coins of the step whose root is at `position`."""
    count = itertools.count()
    return lambda chance: coin(seed, position, "accept", next(count)) < chance


def stand_in(left: Law, p: Law, seed: int, position: int) -> int:
    """The token after a rejection, drawn from what p has left."""
    heap = np.cumsum(left)
    if heap[-1] <= 0:  # p and q are equal up to rounding, and so rare was the rejection
        heap = np.cumsum(p)
    return int(np.searchsorted(heap, coin(seed, position, "residual") * heap[-1], side="right"))


def chance(p: float, q: float) -> float:
    """min(1, p / q), and 0 where the target never goes."""
    return 0.0 if p <= 0 else 1.0 if p >= q else p / q
