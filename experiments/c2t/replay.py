"""Recorded full trees teach a policy that learns: what it would have looked at, and what became of it.

A full tree holds more than any policy hangs, so no model has to run: level by level, the policy's candidates
are among its nodes, and which of them the text went through is known.
"""

from __future__ import annotations

import numpy as np

from outpace.pricing.survival import logit
from outpace.train.c2t import Rows
from outpace.trees.level import Level
from outpace.trees.survival import SurvivalTree, features


def replay(policy: SurvivalTree, rows: Rows, steps: int) -> None:
    """So many trees, in turns; none where there are no rows."""
    trees = [rows.only(rows.tree == number) for number in np.unique(rows.tree)]
    for step in range(steps if trees else 0):
        teach(policy, trees[step % len(trees)])


def teach(policy: SurvivalTree, tree: Rows) -> None:
    """One step: the policy's tree as far as the recorded one has it, and the verdicts."""
    joint, depth = tree.features[:, 0], tree.features[:, 2]
    above = np.where(tree.parent < 0, 0.0, joint[tree.parent])
    taken, looked_at = np.array([-1]), list[np.ndarray]()
    for height in range(1, policy.depth + 1):
        level = np.flatnonzero((depth == height) & np.isin(tree.parent, taken))
        level = np.sort(level[np.argsort(-joint[level], kind="stable")[: policy.width]])
        if not len(level):
            break
        looked_at.append(level)
        chance = policy.estimate.chance(*read(policy, tree, above, level))
        taken = level[policy.worth.passes(chance, 1, 1.0)]
    if looked_at:
        nodes = np.concatenate(looked_at)
        policy.estimate.learn(*read(policy, tree, above, nodes), tree.kept[nodes])


def read(
    policy: SurvivalTree, tree: Rows, above: np.ndarray, nodes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The prior's logits and the features of these nodes. above: the joint log-probability of the parents."""
    joint, entropy, depth = tree.features[nodes].T
    level = Level(tree.parent[nodes], nodes, joint, joint - above[nodes], entropy, depth.astype(np.int64))
    return logit(policy.prior(level)), features(level)
