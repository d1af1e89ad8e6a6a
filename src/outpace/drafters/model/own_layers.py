"""Trees that some layers of the target draft, on the row that they are for.

layer_skip, swift and early_exit share this. A level of a tree is one `Layered.run`, which runs only the nodes
that are new to it. The row's cache holds the text before the root as the whole model has computed it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from outpace.core.call import Call
from outpace.core.contracts import Layered, Target, TreePolicy
from outpace.core.errors import OutpaceError
from outpace.core.steps import Ask, Scores
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.trees.grow import Logits, grow_trees, traits_of


def layered(target: Target, name: str) -> Layered:
    """The target, if it can run a part of itself; else an OutpaceError in the name of the drafter."""
    if not isinstance(target, Layered):
        raise OutpaceError(
            f"{name} drafts with layers of the target's own and {type(target).__name__} cannot run a part of "
            "them, accepted are native targets and looped models of transformers"
        )
    return target


def traits_on_rows(policy: TreePolicy, *, own: bool) -> Traits:
    """Those of a drafter that grows its trees by a policy, its own or another, on the rows of its asks."""
    return replace(traits_of(policy, own=own), whole_calls=True)


def idle_unread(asks: Sequence[Ask]) -> list[Ask]:
    """The asks, without a budget where a row has not read its prompt and has nothing to draft from."""
    return [replace(ask, budget=0) if ask.unread else ask for ask in asks]


def run_part(
    target: Layered,
    asks: Sequence[Ask],
    rows: Sequence[int],
    trees: Sequence[TokenTree],
    nodes: Sequence[Sequence[int]],
    *,
    layers: int | None = None,
    skip: Collection[int] = (),
) -> tuple[Scores, list[list[int]], list[int]]:
    """Run a part of the target for all nodes of some asks' trees that were expanded so far, these included.

    Returns the scores, per row the places among its scored nodes of those expanded now, and how many it has.
    """
    expanded = [
        tree.shape.closure({0, *tree.shape.parent_list[1:], *now})
        for tree, now in zip(trees, nodes, strict=True)
    ]
    parts = [tree.prune(some) for tree, some in zip(trees, expanded, strict=True)]
    calls = [Call.on(asks[row].row, part) for row, part in zip(rows, parts, strict=True)]
    scores = target.run(calls, layers=layers, skip=skip)
    wanted = [[some.index(n) for n in now] for some, now in zip(expanded, nodes, strict=True)]
    return scores, wanted, [part.num_nodes for part in parts]


def grow_on_rows(
    target: Layered,
    asks: Sequence[Ask],
    policy: TreePolicy,
    *,
    layers: int | None = None,
    skip: Collection[int] = (),
    stop: Sequence[float] | None = None,
) -> list[TokenTree]:
    """A tree for each ask, drafted by a part of the target (`Layered.run`).

    stop  per ask, a threshold: the first level that holds no token of this probability is the tree's last.
    """
    asks = idle_unread(asks)
    unsure = [False] * len(asks)
    greedy = all(ask.sampling.temperature == 0 for ask in asks)

    def run(
        rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> tuple[Scores, list[list[int]]]:
        scores, wanted, _ = run_part(target, asks, rows, trees, nodes, layers=layers, skip=skip)
        return scores, wanted

    def step(
        rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]]
    ) -> list[Logits | None]:
        sure = [i for i, row in enumerate(rows) if not unsure[row]]
        found: list[Logits | None] = [None] * len(rows)
        if sure:
            scores, wanted = run([rows[i] for i in sure], [trees[i] for i in sure], [nodes[i] for i in sure])
            for place, i in enumerate(sure):
                logits = found[i] = scores.logits(place, wanted[place])
                if stop is not None:
                    unsure[rows[i]] = confidence(logits) < stop[rows[i]]
        return found

    def pick(
        rows: Sequence[int], trees: Sequence[TokenTree], nodes: Sequence[Sequence[int]], width: int
    ) -> list[list[list[int]] | None]:
        scores, wanted = run(rows, trees, nodes)
        if greedy:
            return [scores.top(i, now, width)[0].tolist() for i, now in enumerate(wanted)]
        chosen = scores.choose([asks[row].sampling for row in rows], [asks[row].position for row in rows])
        return [[[chosen[i][n]] for n in now] for i, now in enumerate(wanted)]

    cheap = stop is None and (policy.width == 1 or greedy)
    return grow_trees(asks, policy, step, pick=pick if cheap else None)


def confidence(logits: Logits) -> float:
    """The largest probability of a token after any of these nodes, from logits [F, V]."""
    peaks = logits.max(axis=1, keepdims=True)
    return float((1.0 / np.exp(logits - peaks).sum(axis=1)).max())
