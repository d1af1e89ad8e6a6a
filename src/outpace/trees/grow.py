"""The one growth loop: a step function of a model and a TreePolicy make a tree for each row.

A level at a time: the policy names the nodes to expand, the step function gives their logits, candidates are
drawn from the drafter's law under the row's sampling, and the policy hangs what it wants.

How candidates are drawn (`Ask.draw`; all of them functions of seed, position and depth alone):

    temperature 0        the likeliest tokens, best first: a "point" draw, whatever was asked for
    without_replacement  the largest of log q + g, g being the noise of the target's own choice there:
                         successive draws without replacement (Gumbel top-k: Vieira 2014; Kool, van Hoof &
                         Welling 2019, arXiv:1903.06059) that agree with the target as often as they can
    iid                  argmax of log q + fresh noise, once per candidate; fresh for every root, because a
                         rule may reject a draft for what comes after it (block verification)
    hub                  SpecHub's pair: one fresh draw x; the other is the likeliest token a, or, if x = a, a
                         second draw without a (Sun et al. 2024, arXiv:2411.05289)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from outpace.core.contracts import Ask, Candidates, TreePolicy
from outpace.core.sampling import Sampling, fresh_seed, gumbel, warp
from outpace.core.tree import Draw, TokenTree

Logits = NDArray[np.floating]
StepFunction = Callable[[Sequence[int], Sequence[TokenTree], Sequence[Sequence[int]]], Sequence[Logits]]
"""(rows, their trees, per tree the nodes to expand) -> per row the drafter's raw logits f32[F, V] there."""


def grow_trees(asks: Sequence[Ask], policy: TreePolicy, step: StepFunction) -> list[TokenTree]:
    """A tree for each ask, within its budget and depth; `step` is called once per level for all rows."""
    trees = [TokenTree.root(ask.root) for ask in asks]
    rows = list(range(len(asks)))
    while True:
        nodes = {
            row: list(policy.expand(trees[row]))
            for row in rows
            if trees[row].shape.height < asks[row].depth and asks[row].budget > 0
        }
        rows = [row for row in rows if nodes.get(row)]
        if not rows:
            break
        logits = step(rows, [trees[row] for row in rows], [nodes[row] for row in rows])
        grown = []
        for row, after in zip(rows, logits, strict=True):
            tree = policy.grow(
                trees[row], draw_candidates(trees[row], nodes[row], after, asks[row], policy.width)
            )
            if tree is not trees[row]:
                grown.append(row)
            trees[row] = tree
        rows = grown
    return [
        tree if tree.num_nodes - 1 <= ask.budget else policy.prune(tree, ask.budget)
        for tree, ask in zip(trees, asks, strict=True)
    ]


def draw_candidates(
    tree: TokenTree, nodes: Sequence[int], logits: Logits, ask: Ask, width: int
) -> Candidates:
    """`width` tokens after each of `nodes`, from raw logits f32[F, V]; fewer where the law has fewer."""
    draw: Draw = "point" if ask.sampling.temperature == 0 else ask.draw
    tokens = np.zeros((len(nodes), width), np.int32)
    logq = np.full((len(nodes), width), -np.inf, np.float32)
    laws = []
    for f, node in enumerate(nodes):
        # Greedy laws are one-hot: there, confidence is read from the softmax.
        sampling = Sampling(temperature=1.0) if ask.sampling.temperature == 0 else ask.sampling
        law = warp(logits[f], sampling)
        position = ask.position + tree.shape.depths[node] + 1
        drawn = _drawn(law, draw, ask, position, node, width)
        tokens[f, : len(drawn)] = drawn
        logq[f, : len(drawn)] = np.log(law[drawn])
        laws.append(law)
    return Candidates(nodes, tokens, logq, laws, draw)


def _drawn(
    law: NDArray[np.float64], draw: Draw, ask: Ask, position: int, node: int, width: int
) -> NDArray[np.int64]:
    support = np.flatnonzero(law)
    logq = np.log(law[support])
    if draw == "point":
        return _best(support, logq, width)
    if draw == "without_replacement":
        return _best(support, logq + gumbel(ask.sampling.seed, position, support), width)

    def fresh(purpose: str) -> NDArray[np.float64]:
        seed = fresh_seed(ask.sampling.seed, purpose, ask.position, node)
        return logq + gumbel(seed, position, support)

    if draw == "iid":
        return np.array([support[np.argmax(fresh(f"draft {k}"))] for k in range(width)])
    assert draw == "hub", f"no way to draw {draw!r}"
    first, second = _best(support, fresh("draft 0"), 2)[[0, -1]]
    likeliest = support[np.argmax(logq)]
    pair = [first, second if first == likeliest else likeliest]
    return np.array(pair[: min(width, len(support))])


def _best(tokens: NDArray[np.int64], scores: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k tokens of the highest scores, best first, lower id on ties."""
    if k == 1:
        return tokens[[np.argmax(scores)]]
    if k < len(tokens):
        kept = np.sort(np.argpartition(-scores, k - 1)[:k])
        # argpartition may drop the lower id of two that tie for the last place; logits that tie are rare.
        tokens, scores = tokens[kept], scores[kept]
    return tokens[np.argsort(-scores, kind="stable")]
